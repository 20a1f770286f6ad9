"""What the tests of the smart burst buffer's engine share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sbb.engine import BUILD, UID, Engine, temporary_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """The programs with sanitizers, beside the plain ones, where the owner can run them."""
    with temporary_folder() as name:
        Path(name).chmod(0o755)
        build = [sys.executable, "setup.py", "--quiet", "build_sbb", f"--output={name}", "--variants=asan,tsan"]
        subprocess.run(build, cwd=ROOT, check=True)
        yield Path(name)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path that the owner may go through."""
    with temporary_folder() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def buffer(folder: Path) -> Iterator[Callable[..., Engine]]:
    """Makes running buffers."""
    assert (BUILD / "sbbd").exists(), "run `make setup` first"
    with ExitStack() as stack:

        def make(name: str = "b", **settings: Any) -> Engine:
            return stack.enter_context(Engine(folder / name, **settings))

        yield make


@pytest.fixture
def plain(folder: Path) -> Path:
    """A directory of the owner's beside the buffer."""
    path = folder / "plain"
    path.mkdir()
    os.chown(path, UID, UID)
    return path


@pytest.fixture
def script(folder: Path) -> Callable[[str], str]:
    """Puts one of the tests' programs where the owner can read it; its path."""

    def copy(name: str) -> str:
        return shutil.copy(str(Path(__file__).with_name(name)), str(folder / name))

    return copy


@pytest.fixture
def slow(folder: Path) -> dict[str, str]:
    """The environment of a server whose system calls take a random time."""
    library = folder / "slow.so"
    source = Path(__file__).with_name("slow.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "SLOW_US": "3000"}
