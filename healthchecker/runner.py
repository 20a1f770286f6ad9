"""Runs checks beside each other, each in a child of its own with a time limit.

A file system or a server that hangs can hold a process for ever, even against SIGKILL. So the parent touches neither:
it waits for its children no longer than their time limits, and leaves behind what does not end.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from healthchecker.check import Check
from healthchecker.service import Level, Result, Service

PARALLEL = 32


@dataclass(slots=True)
class _Child:
    index: int
    check: Check
    pid: int
    deadline: float
    answer: bytes = b""


def run(tasks: Sequence[tuple[Service, Check]], *, parallel: int = PARALLEL) -> list[list[Result]]:
    """What each check found, in the order of the tasks. Returns when all have ended or run out of time."""
    results: list[list[Result]] = [[] for _ in tasks]
    waiting = list(enumerate(tasks))[::-1]
    running: dict[int, _Child] = {}
    while waiting or running:
        while waiting and len(running) < parallel:
            index, (service, check) = waiting.pop()
            descriptor, pid = _start(service, check)
            running[descriptor] = _Child(index, check, pid, time.monotonic() + check.seconds)
        _wait(running)
        for descriptor, child in list(running.items()):
            piece = _read(descriptor)
            if piece:
                child.answer += piece
                continue
            late = piece is None and time.monotonic() >= child.deadline
            if piece == b"" or late:
                results[child.index] = _late(child) if late else _ended(child)
                os.close(descriptor)
                del running[descriptor]
    return results


def _wait(running: dict[int, _Child]) -> None:
    left = min(child.deadline for child in running.values()) - time.monotonic()
    select.select(list(running), [], [], max(left, 0))


def _read(descriptor: int) -> bytes | None:
    """What is there; b"": the child has ended; None: nothing yet."""
    try:
        return os.read(descriptor, 65536)
    except BlockingIOError:
        return None


def _late(child: _Child) -> list[Result]:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, os.WNOHANG)  # it may hang in the kernel: not waited for
    return [Result(child.check.late, f"no answer within {child.check.seconds:g} s: {child.check.hangs}")]


def _ended(child: _Child) -> list[Result]:
    os.waitpid(child.pid, 0)
    try:
        return [Result(Level(level), text, full) for level, text, full in json.loads(child.answer)]
    except ValueError:
        return [Result(Level.WARNING, "the check itself was killed before it could answer")]


def _start(service: Service, check: Check) -> tuple[int, int]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    pid = os.fork()
    if pid == 0:
        _be_child(service, check, writing)
    os.close(writing)
    return reading, pid


def _be_child(service: Service, check: Check, writing: int) -> NoReturn:
    """Look, write, and end without a way back into the parent's code."""
    code = 1
    try:
        os.setsid()  # a command of its own is ended with it
        # If it hangs for ever, whoever reads the parent's output must not wait for it.
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        try:
            found = [[int(each.level), each.text, each.full] for each in check.run(service)]
        except Exception as error:  # a defect of the check is nothing bad about the service
            found = [[int(Level.WARNING), f"the check itself does not work: {error}", False]]
        os.write(writing, json.dumps(found).encode())
        code = 0
    finally:
        os._exit(code)
