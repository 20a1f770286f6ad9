"""Checks services, writes the results into the database, and says what was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime

from healthchecker import runner
from healthchecker.database import Database
from healthchecker.registry import checks_for
from healthchecker.service import Level, Result, Service

_WORD = {Level.OK: "OK", Level.WARNING: "WARNING", Level.FAILED: "FAILED"}


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One line for people: of one check of one service."""

    level: Level
    text: str


def check(services: Sequence[Service], *, gone: bool = False, tolerate_full: bool = False) -> dict[str, list[Line]]:
    """Every check of every service; lines by sid, one of level OK for a check that found nothing."""
    tasks = [(service, each) for service in services for each in checks_for(service, gone=gone)]
    lines: dict[str, list[Line]] = {service.sid: [] for service in services}
    for (service, each), results in zip(tasks, runner.run(tasks), strict=True):
        for result in results or [Result(Level.OK, "")]:
            level = Level.WARNING if result.full and tolerate_full else result.level
            lines[service.sid].append(Line(level, f"{each.name}: {result.text}" if result.text else each.name))
    return lines


def worst(lines: dict[str, list[Line]]) -> Level:
    """The exit code."""
    return max((line.level for found in lines.values() for line in found), default=Level.OK)


def record(database: Database, lines: dict[str, list[Line]]) -> None:
    """Put date and results into the database, for services that are still in it. Raises EnvironmentFault."""
    now = datetime.now().strftime("%Y-%m-%d %H:%M:%S.%f")
    with database.change() as services:
        for sid, found in lines.items():
            if sid in services:
                results = tuple(f"{_WORD[line.level]} {line.text}" for line in found if line.level)
                services[sid] = dataclasses.replace(
                    services[sid], check_date=now, check_results=results or (_WORD[Level.OK],)
                )


def told(service: Service, line: Line) -> str:
    """`FAILED: service 42 (toto, gbf): ganesha: ...`."""
    return f"{_WORD[line.level]}: service {service.sid} ({service.name}, {service.mode}): {line.text}"
