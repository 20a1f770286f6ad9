"""When a server of an SBB is said not to answer."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dnd.sbb import service as watched
from dnd.sbb.control import ServerStatus, Silent
from dnd.sbb.server import Settings
from dnd.sbb.service import Sbb
from dnd.service import Service
from ebb.errors import EnvironmentFault

WELL = ServerStatus("running", 0, 0)
LATE = Silent("sbbd does not answer `status` at /x within 0.5 s")
AWAY = EnvironmentFault("sbbd does not answer `status` at /x: Connection refused")


class Looks:
    """A service whose server answers as told, one answer a look; `said` is what its status says after each."""

    def __init__(self, sbb: Sbb, monkeypatch: pytest.MonkeyPatch) -> None:
        self._sbb, self._answers = sbb, cast(Iterator[ServerStatus | EnvironmentFault], iter(()))
        self.record = SimpleNamespace(
            spec=SimpleNamespace(sid="42"), server=SimpleNamespace(alive=True), error=None, dirty=False
        )
        monkeypatch.setattr(sbb, "_ask", lambda *_: self._answer())

    def _answer(self) -> ServerStatus:
        answer = next(self._answers)
        if isinstance(answer, EnvironmentFault):
            raise answer
        return answer

    def update(self, **changes: Any) -> bool:
        """As a service's."""
        self.record.error = changes.get("error", self.record.error)
        return True

    def said(self, *answers: ServerStatus | EnvironmentFault) -> list[str | None]:
        """What is said after each of these answers."""
        self._answers, found = iter(answers), []
        for _ in answers:
            self._sbb.keep(cast(Service, self))
            found.append(self.record.error)
            self._sbb._watches["42"].next_look = 0.0
        return found


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    """Of a server that is well."""
    monkeypatch.setattr(watched, "record_name", lambda _: "SBB 42")
    return Looks(Sbb(cast(Any, None), cast(Settings, None), lambda _: b"", list), monkeypatch)


def test_late_once_or_twice_is_a_busy_node(looks: Looks) -> None:
    assert looks.said(LATE, LATE, WELL, LATE, LATE, WELL) == [None] * 6


def test_late_time_and_again_is_told_until_it_answers(looks: Looks) -> None:
    assert looks.said(LATE, LATE, LATE, LATE, WELL, LATE) == [None, None, LATE.text, LATE.text, None, None]


def test_one_that_nobody_can_reach_is_told_at_once(looks: Looks) -> None:
    assert looks.said(AWAY, WELL) == [AWAY.text, None]
