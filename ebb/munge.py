"""MUNGE credentials through libmunge (cffi, ABI mode): who sent this, on a cluster that shares one key.

Source: munge(3) of libmunge2 0.5.15. munge_decode verifies, decrypts, and refuses a credential that this host's munged
has seen before (EMUNGE_CRED_REPLAYED) or that is past its lifetime.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import cffi

from ebb.errors import EnvironmentFault, NotAllowed

_CDEF = """
typedef struct munge_ctx *munge_ctx_t;
munge_ctx_t munge_ctx_create(void);
void munge_ctx_destroy(munge_ctx_t ctx);
const char *munge_ctx_strerror(munge_ctx_t ctx);
int munge_ctx_set(munge_ctx_t ctx, int opt, ...);
int munge_encode(char **cred, munge_ctx_t ctx, const void *buf, int len);
int munge_decode(const char *cred, munge_ctx_t ctx, void **buf, int *len, uint32_t *uid, uint32_t *gid);
const char *munge_strerror(int e);
void free(void *p);
size_t strlen(const char *s);
"""
_OPT_SOCKET = 8
# munge_err_t 8 (BAD_CRED) .. 18 (CRED_UNAUTHORIZED): the credential itself is at fault, not munged.
_CREDENTIAL_ERRORS = range(8, 19)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a credential says: the payload and who encoded it."""

    payload: bytes
    uid: int
    gid: int


@functools.cache
def _library() -> tuple[cffi.FFI, Any]:
    ffi = cffi.FFI()
    ffi.cdef(_CDEF)
    try:
        return ffi, ffi.dlopen("libmunge.so.2")
    except OSError as error:
        raise EnvironmentFault("libmunge.so.2 cannot be loaded: install the package libmunge2") from error


def _context(ffi: cffi.FFI, lib: Any, socket: str) -> Any:
    context = ffi.gc(lib.munge_ctx_create(), lib.munge_ctx_destroy)
    if socket:
        lib.munge_ctx_set(context, _OPT_SOCKET, ffi.new("char[]", socket.encode()))
    return context


def encode(payload: bytes, socket: str = "") -> str:
    """A credential for `payload` made in this process's uid. socket: munged's, empty for the default.

    Raises EnvironmentFault if munged does not answer.
    """
    ffi, lib = _library()
    context = _context(ffi, lib, socket)
    credential = ffi.new("char **")
    code = lib.munge_encode(credential, context, payload, len(payload))
    if code != 0:
        reason = _reason(ffi, lib, context, code)
        raise EnvironmentFault(f"munged did not encode a credential: {reason}; is it running?")
    try:
        return bytes(ffi.buffer(credential[0], lib.strlen(credential[0]))).decode("ascii")
    finally:
        lib.free(credential[0])


def decode(credential: str, socket: str = "") -> Decoded:
    """Verify a credential; each can be decoded once on a host.

    Raises NotAllowed for one that is forged, expired or replayed, EnvironmentFault if munged does not answer.
    """
    ffi, lib = _library()
    context = _context(ffi, lib, socket)
    buffer, length = ffi.new("void **"), ffi.new("int *")
    uid, gid = ffi.new("uint32_t *"), ffi.new("uint32_t *")
    code = lib.munge_decode(credential.encode("ascii", "replace"), context, buffer, length, uid, gid)
    try:
        if code in _CREDENTIAL_ERRORS:
            raise NotAllowed(f"MUNGE credential refused: {_reason(ffi, lib, context, code)}")
        if code != 0:
            reason = _reason(ffi, lib, context, code)
            raise EnvironmentFault(f"munged did not decode a credential: {reason}; is it running?")
        return Decoded(bytes(ffi.buffer(buffer[0], length[0])), uid[0], gid[0])
    finally:
        if buffer[0] != ffi.NULL:
            lib.free(buffer[0])


def _reason(ffi: cffi.FFI, lib: Any, context: Any, code: int) -> str:
    text = lib.munge_ctx_strerror(context)
    if text == ffi.NULL:
        text = lib.munge_strerror(code)
    return bytes(ffi.buffer(text, lib.strlen(text))).decode("utf-8", "replace")
