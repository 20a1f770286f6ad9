"""One log line a fact, with the request id that caused it, so that grep follows a request through the processes."""

from __future__ import annotations

import contextvars
import logging
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ebb.errors import printable

_request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="-")


def new_request_id(origin: str) -> str:
    """A fresh id such as `reconcile-3fa9`; origin: what caused the work."""
    return f"{origin}-{secrets.token_hex(2)}"


def current_request_id() -> str:
    """The id of the request this thread works for, or `-`."""
    return _request_id.get()


@contextmanager
def request(request_id: str) -> Iterator[None]:
    """All log lines inside carry `request_id`."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)


class _OneLine(logging.Formatter):
    """What others may choose (a path, a URL, a file's name) neither ends a line nor reaches a terminal as a command."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return "\n".join("    " + printable(line) for line in super().formatException(ei).split("\n"))


class _AddRequestId(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = _request_id.get()
        return True


def setup(process: str, level: str = "INFO") -> None:
    """Log to the error output (journald or a file takes it from there). Called once at start of a process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_AddRequestId())
    handler.setFormatter(
        _OneLine(f"%(asctime)s.%(msecs)03d {process} %(levelname)s [%(request_id)s] %(message)s", "%Y-%m-%dT%H:%M:%S")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
