"""A text as a precompiled chunk of Lua 5.1, the Lua that Debian's Slurm links.

Lua 5.1 has no way to read a large file into a string without copying it several times into new memory; loading a chunk
with one constant takes a tenth of the time (`make bench`, get_status). The text is data in it, whatever it holds.
Format: what luac 5.1 writes on 64 bit little-endian machines (lundump.c, lopcodes.h). Every other Lua refuses it by its
header, and the text is read then.
"""

from __future__ import annotations

import struct

_HEADER = b"\x1bLua\x51\x00\x01\x04\x08\x04\x08\x00"
"""Version 5.1, official format, little-endian; bytes of int, size_t, instruction and number; numbers are floats."""
_LOADK, _RETURN = 1, 30
_STRING = 4


def chunk(text: bytes) -> bytes:
    """The chunk of `return <text>`."""
    code = (_LOADK, _RETURN | 2 << 23, _RETURN | 1 << 23)  # register 0 = constant 0; return one value; the end
    return b"".join(
        (
            _HEADER,
            struct.pack("<Qii4B", 0, 0, 0, 0, 0, 2, 2),  # no name, no lines; a main function with two registers
            struct.pack("<i3I", len(code), *code),
            struct.pack("<iBQ", 1, _STRING, len(text) + 1),
            text,
            b"\0",
            struct.pack("<4i", 0, 0, 0, 0),  # no inner functions, nothing for debuggers
        )
    )
