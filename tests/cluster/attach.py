"""Runs one command inside a cluster's namespaces with the caller's terminal, signals and exit code.

nsenter(1) would do, but Ctrl-C ends it before the command that still handles the signal.
"""

import os
import signal
import subprocess
from types import FrameType

from cluster import kernel

NAMESPACES = ("ipc", "uts", "net", "pid", "mnt")  # mnt last: the others are opened by their path here


def attach(pid: int, words: list[str]) -> int:
    """Enter the namespaces of process `pid` and run `words` there; the code to exit with.

    The calling process stays inside: call it last. A command that a signal ended gives 128 + its number, as in a shell.
    Raises OSError.
    """
    files = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in NAMESPACES]
    for fd in files:
        kernel.setns(fd)
        os.close(fd)
    child = subprocess.Popen(words)

    def pass_on(number: int, frame: FrameType | None) -> None:
        child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    for number in (signal.SIGINT, signal.SIGQUIT):  # a terminal sends these to the command too
        signal.signal(number, signal.SIG_IGN)
    code = child.wait()
    return code if code >= 0 else 128 - code
