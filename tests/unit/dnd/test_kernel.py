"""Calls of the kernel where a file system refuses them."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dnd.tools import kernel


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """An open file of 3 MiB of ones."""
    path = tmp_path / "file"
    path.write_bytes(b"\x01" * (3 << 20))
    descriptor = os.open(path, os.O_RDWR)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EOPNOTSUPP])
def test_a_server_that_lets_root_share_and_punch_nothing_costs_only_time(
    file: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS 4.2 with root_squash: what was opened by the user can be written, but not cloned or punched by root."""

    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    class Refusing:
        def fallocate(self, *_: object) -> int:
            ctypes.set_errno(code)
            return -1

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    monkeypatch.setattr(kernel, "_libc", Refusing())
    assert not kernel.clone(file, 0, file, 1 << 20, 1 << 20)
    kernel.make_zeros(file, 4096, (2 << 20) + 4096)
    assert os.pread(file, 3 << 20, 0) == b"\x01" * 4096 + bytes(2 << 20) + b"\x01" * ((1 << 20) - 4096)
    if code != errno.EOPNOTSUPP:
        os.ftruncate(file, 0)
        os.ftruncate(file, 3 << 20)
        kernel.make_zeros(file, 0, 3 << 20)
        assert os.fstat(file).st_blocks == 0


def test_a_file_system_that_fails_is_heard(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fcntl, "ioctl", fail)
    with pytest.raises(OSError, match="No space left"):
        kernel.clone(file, 0, file, 1 << 20, 1 << 20)
