"""The same under ASan with UBSan, and under TSan: the random checker, ranks on one file, a server killed and back."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sbb.engine import Engine
from sbb.steps import BUSY, random_steps

Make = Callable[..., Engine]


@pytest.mark.parametrize("variant", ["-asan", "-tsan"])
@pytest.mark.parametrize("store", [False, True], ids=["memory", "store"])
def test_nothing_is_found(buffer: Make, plain: Path, programs: Path, variant: str, store: bool) -> None:
    engine = buffer(servers=2, store=store, settings=BUSY, variant=variant, build=programs)

    def kill(_: int) -> None:
        if store:
            time.sleep(1)
            engine.daemons[0].kill()
            engine.daemons[0].wait()
            engine.start_server(0)

    random_steps(engine, plain, programs=3, steps=500, meanwhile=kill)
    reports = engine.client_log() + "".join(engine.log(n) for n in range(2))
    assert "Sanitizer" not in reports, reports
    assert "runtime error" not in reports, reports
