"""The job script. Pure. Nothing that a user named stands in it but the dataset, quoted; the rest is in files."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from ebb.errors import UserError


@dataclass(frozen=True, slots=True)
class Buffer:
    """The buffer of a migration: it is made for its job and ends with it. Datasets as directives name them."""

    name: str
    storage: int
    mountpoint: str
    data_src: str | None = None
    data_dst: str | None = None

    def directives(self) -> list[str]:
        """Its `#BB_LUA` lines. The grammar's quotes are a shell's."""
        keys = {"Name": self.name, "StorageSize": str(self.storage), "Path": self.mountpoint, "FSType": "ganesha"}
        keys |= {key: value for key, value in (("data_src", self.data_src), ("data_dst", self.data_dst)) if value}
        words = " ".join(f"{key}={shlex.quote(value)}" for key, value in keys.items())
        lines = [f"#BB_LUA GBF create_persistent {words}", f"#BB_LUA GBF use_persistent Name={self.name}"]
        for line in lines:
            if not line.isprintable() or "%" in line:
                raise UserError(f"`{line}` cannot be a #BB_LUA line: no control characters and no % in paths")
        return lines


def text(buffer: Buffer, python: str, library: str, work: str) -> str:
    """The script that runs `ebb.migrate.job` of `library` with `python` for the work directory `work`."""
    program = shlex.join([python, "-P", "-m", "ebb.migrate.job", work])
    return "\n".join(
        ["#!/bin/bash", *buffer.directives(), f"export PYTHONPATH={shlex.quote(library)}", f"exec {program}", ""]
    )
