"""Which checks there are. A new one: a module in `checks/` with its CHECK, and its line here (docs/health.md)."""

from __future__ import annotations

from healthchecker.check import Check
from healthchecker.checks import ganesha, leftovers, mounted, pool, space, volume
from healthchecker.service import IN_USE, STAGED_IN, Service

CHECKS: tuple[Check, ...] = (volume.CHECK, pool.CHECK, mounted.CHECK, ganesha.CHECK, space.CHECK, leftovers.CHECK)


def checks_for(service: Service, *, gone: bool = False) -> list[Check]:
    """The checks for a service now; gone: for one that ended, to see what it left.

    None while its data are being saved: its server is stopped and its file system unmounted then.
    """
    if not gone and service.state not in (STAGED_IN, IN_USE):
        return []
    return [check for check in CHECKS if service.mode in check.modes and check.gone is gone]
