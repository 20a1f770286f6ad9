"""The plugin as it is shipped and with sanitizers, and compute nodes to run it on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from computenode import Built, Node


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """As it is shipped."""
    return Built(tmp_path_factory.mktemp("plugin"), sanitize=False)


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """With the C part under ASan and UBSan."""
    return Built(tmp_path_factory.mktemp("sanitized"), sanitize=True)


@pytest.fixture
def node(built: Built) -> Iterator[Node]:
    """A new compute node."""
    node = Node(built)
    yield node
    node.end()
