"""The packages of a Debian release, and a machine that has them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from packages.debian import Machine, bootstrap, build

SUITES = os.environ.get("EBB_PACKAGES_SUITES", "bookworm").split(",")
# On every node that Ebb is installed on, or needed to look at what was installed.
_PRESENT = ("slurmctld", "slurmd", "slurm-client", "systemd", "logrotate", "lua5.1")


@pytest.fixture(scope="session", params=SUITES)
def suite(request: pytest.FixtureRequest) -> str:
    """A Debian release; EBB_PACKAGES_SUITES=bookworm,trixie,sid asks for more."""
    return str(request.param)


@pytest.fixture(scope="session")
def packages(suite: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The .deb files by package name."""
    paths = build(suite, tmp_path_factory.mktemp(f"dist-{suite}"))
    return {path.name.partition("_")[0]: path for path in paths}


@pytest.fixture(scope="session")
def machine(suite: str, packages: dict[str, Path]) -> Iterator[Machine]:
    """A Debian with Slurm in which all of our packages have been installed by apt."""
    folder = Path(tempfile.mkdtemp(prefix=f"ebb-machine-{suite}-", dir="/var/tmp"))
    try:
        bootstrap(suite, folder)
        machine = Machine(folder)
        machine.apt("update")
        machine.apt("install", *_PRESENT)
        (folder / "packages").mkdir()
        for path in packages.values():
            shutil.copy(path, folder / "packages")
        machine.apt("install", *(f"/packages/{path.name}" for path in packages.values()))
        yield machine
    finally:
        shutil.rmtree(folder)
