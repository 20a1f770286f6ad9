"""A fixture that many tests share: a munged of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def munge_socket() -> Iterator[str]:
    """The socket of a real munged with a key of its own, gone after the session."""
    # munged refuses folders that others may write, as /tmp-based tmp_path parents would be.
    folder = Path(tempfile.mkdtemp(prefix="ebb-munge-", dir="/run"))
    folder.chmod(0o755)
    key, socket = folder / "munge.key", folder / "munge.socket"
    key.write_bytes(os.urandom(64))
    key.chmod(0o600)
    process = subprocess.Popen(
        [
            "munged",
            "--foreground",
            f"--key-file={key}",
            f"--socket={socket}",
            f"--pid-file={folder}/pid",
            f"--log-file={folder}/log",
            f"--seed-file={folder}/seed",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"munged did not start: {process.communicate(timeout=5)}")
            time.sleep(0.02)
        yield str(socket)
    finally:
        process.terminate()
        process.wait(timeout=10)
        shutil.rmtree(folder)
