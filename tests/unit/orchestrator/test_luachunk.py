"""What Lua gets from the chunk is the text, to the byte; other releases of Lua refuse it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from orchestrator.luachunk import chunk

SHOW = "local chunk, why = loadfile(arg[1]); io.write(chunk and chunk() or 'refused: ' .. why)"


def loaded(lua: str, tmp_path: Path, text: bytes) -> bytes:
    (tmp_path / "bbstat.luac").write_bytes(chunk(text))
    (tmp_path / "show.lua").write_text(SHOW)
    return subprocess.run(
        [lua, tmp_path / "show.lua", tmp_path / "bbstat.luac"], capture_output=True, check=True
    ).stdout


@pytest.mark.parametrize(
    "text", [b"", b"FA: one\n", bytes(range(256)) * 5, 'gr\u00fc\u00dfe ]] " \\n'.encode(), b"x" * 3_000_000]
)
def test_lua_5_1_gets_the_text(tmp_path: Path, text: bytes) -> None:
    assert loaded("lua5.1", tmp_path, text) == text


@pytest.mark.parametrize("lua", ["lua5.3", "lua5.4"])
def test_other_releases_refuse_it(tmp_path: Path, lua: str) -> None:
    assert loaded(lua, tmp_path, b"FA: one\n").startswith(b"refused: ")
