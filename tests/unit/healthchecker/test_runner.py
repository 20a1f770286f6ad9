"""Checks run beside each other; what hangs, dies or is defect costs neither the others nor much time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace

from healthchecker.check import Check
from healthchecker.runner import run
from healthchecker.service import Level, Result, Service

SERVICE = Service("42", 1, 1, "gbf", "toto", (), ())


def check(name: str, seconds: float = 5) -> Check:
    def look(_: Service) -> Iterable[Result]:
        if name == "hangs":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            subprocess.run([sys.executable, "-c", "import time; time.sleep(1000)"])
        elif name == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        elif name == "is defect":
            raise ZeroDivisionError("a defect")
        elif name == "talks":
            print("this goes nowhere")
            yield Result(Level.WARNING, "x" * 200_000)
        elif name == "waits":
            time.sleep(0.3)
        yield from ()

    return Check(name, frozenset({"gbf"}), look, "it hangs", seconds)


def test_each_gets_its_own_answer() -> None:
    names = ["is well", "hangs", "dies", "is defect", "talks"]
    begin = time.monotonic()
    well, hangs, dies, defect, talks = run([(SERVICE, check(name, seconds=1)) for name in names])
    assert time.monotonic() - begin < 2.5
    assert well == []
    assert hangs == [Result(Level.FAILED, "no answer within 1 s: it hangs")]
    assert dies == [Result(Level.WARNING, "the check itself was killed before it could answer")]
    assert defect == [Result(Level.WARNING, "the check itself does not work: a defect")]
    assert [(result.level, len(result.text)) for result in talks] == [(Level.WARNING, 200_000)]


def test_what_only_waits_for_others_is_no_failure_of_the_service() -> None:
    """LVM's commands wait for each other, and many volumes may be made at once."""
    slow = replace(check("hangs", seconds=0.5), late=Level.WARNING)
    assert run([(SERVICE, slow)]) == [[Result(Level.WARNING, "no answer within 0.5 s: it hangs")]]


def test_many_run_at_a_time() -> None:
    begin = time.monotonic()
    assert run([(SERVICE, check("waits"))] * 40, parallel=20) == [[]] * 40
    assert time.monotonic() - begin < 4, "one after the other they take 12 s"


def test_who_reads_the_output_does_not_wait_for_a_check_that_hangs() -> None:
    code = (
        "from unit.healthchecker.test_runner import *\n"
        "import healthchecker.runner as r\n"
        "r.os.killpg = lambda *_: None\n"  # as SIGKILL does nothing to what hangs in the kernel
        "run([(SERVICE, Check('x', frozenset(), lambda _: time.sleep(20) or [], 'h', 0.5))])"
    )
    begin = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, timeout=15)
    assert time.monotonic() - begin < 10
