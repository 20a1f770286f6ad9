"""The only place that starts short-lived commands: argument lists, a timeout, LC_ALL=C, never a shell."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ebb.errors import EnvironmentFault

_SAFE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Completed:
    """How a command ended."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


class CommandFailed(EnvironmentFault):
    """A command could not be started, ran out of time or ended with an error."""

    def __init__(self, argv: Sequence[str], why: str, returncode: int | None = None, stderr: str = "") -> None:
        self.argv = tuple(argv)
        self.returncode = returncode
        self.stderr = stderr
        super().__init__(f"`{shlex.join(argv)}` {why}")


class Runner(Protocol):
    """What tools take to start commands, so that a test can stand in where a fault must be made."""

    def __call__(
        self, argv: Sequence[str], *, timeout: float = ..., input: str | None = ..., check: bool = ...
    ) -> Completed:
        """See `run`."""
        ...


def run(
    argv: Sequence[str],
    *,
    timeout: float = 60.0,
    input: str | None = None,
    check: bool = True,
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Run a command to its end and return what it printed.

    timeout: seconds; the command is killed at its end.
    check: raise if the exit status is not 0.
    env: variables added to the small fixed environment (PATH, LC_ALL=C); the caller's own is not passed on.
    Raises CommandFailed with the last line the command wrote to its error output.
    """
    environment = {"PATH": _SAFE_PATH, "LC_ALL": "C", "HOME": "/", **(env or {})}
    try:
        done = subprocess.run(
            list(argv),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(argv, f"did not end within {timeout:g} s and was killed") from error
    except OSError as error:
        raise CommandFailed(argv, f"could not be started: {error.strerror}") from error
    if check and done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise CommandFailed(argv, f"ended with {done.returncode}: {last}", done.returncode, done.stderr)
    return Completed(tuple(argv), done.returncode, done.stdout, done.stderr)
