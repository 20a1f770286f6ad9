"""A server that is drained for good, followed by a look now and then: between two looks no thread waits for it.

What it answers is the user's own word and may be anything, at any pace: it takes time of nobody else's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from dnd.sbb.control import ServerStatus, Silent, listed
from dnd.service import NotYet, Service
from dnd.staging.progress import Cancelled, Tracker
from ebb.errors import EnvironmentFault
from ebb.model import Phase

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 1.0
"""Within which a look has its answer."""
SHARE = 5
"""After a look, and whatever else waits for a server, nothing waits for it for so many times as long."""
_BRIEFLY_SECONDS = 1.0
_PAUSE_SECONDS = 0.1
_CLIENTS_SECONDS = 60.0
_SILENT_SECONDS = 30.0
# sbbd tries a file again that it could not drain: for so long nothing may get less before the drain is given up.
_FAILING_SECONDS = 15.0


class Drain:
    """One drain: waits until clients have let go, then has the server drain, then sees it get on.

    name: what log lines call the service. ask: sends `status` or `drain`, both answered with a status, within
    PATIENCE_SECONDS; raises EnvironmentFault.
    """

    def __init__(self, service: Service, name: str, ask: Callable[[str], ServerStatus]) -> None:
        self._service, self._name, self._ask = service, name, ask
        self._begun = self._heard = self._moved = time.monotonic()
        self._next = 0.0
        self._draining = False
        self._tracker: Tracker | None = None
        self._left = 0
        self._drained: ServerStatus | None = None
        self._fault: EnvironmentFault | None = None

    def follow(self) -> ServerStatus:
        """What the server said when all was drained. One that has little to do is waited for, for a moment.

        Raises NotYet while it drains, EnvironmentFault if it does not answer, or with what it cannot drain; Cancelled.
        """
        end = time.monotonic() + _BRIEFLY_SECONDS
        while not self.look():
            if self._service.cancel.wait(_PAUSE_SECONDS):
                raise Cancelled
            if time.monotonic() > end:
                raise NotYet(self.look)
        if self._drained is None:
            raise self._fault or Cancelled
        return self._drained

    def look(self) -> bool:
        """Ask the server, if it is time to; whether there is nothing more to wait for."""
        begun = time.monotonic()
        if not self._over and begun >= self._next and not self._service.cancel.is_set():
            try:
                self._step()
                self._heard = time.monotonic()
            except Silent as error:
                if time.monotonic() - self._heard > _SILENT_SECONDS:
                    self._fault = error
            except EnvironmentFault as error:
                self._fault = error
            except Cancelled:
                pass  # whoever cancelled it has work of their own for this service
            now = time.monotonic()
            self._next = now + SHARE * (now - begun)
        return self._over

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._begun

    @property
    def _over(self) -> bool:
        return self._drained is not None or self._fault is not None

    def _step(self) -> None:
        if self._draining:
            found = self._ask("status")
        elif self._clients_stay(self._ask("status").clients):
            return
        else:
            found = self._ask("drain")
            self._draining = True
        now = time.monotonic()
        if self._tracker is None:
            self._tracker, self._left, self._moved = self._service.new_tracker(), found.dirty, now
            self._tracker.begin(found.dirty)
        elif found.dirty < self._left:
            self._tracker.advance(self._left - found.dirty)
            self._left, self._moved = found.dirty, now
        self._tracker.tick()
        if found.state == "drained":
            self._drained = found
        elif found.state == "failed" and now - self._moved > _FAILING_SECONDS:
            self._fault = EnvironmentFault(f"cannot drain {listed(found.errors) or 'everything'}")

    def _clients_stay(self, clients: int) -> bool:
        """A job's last words may still be on their way: its client goes with its mount namespace, soon."""
        stay = clients > 0 and time.monotonic() - self._begun <= _CLIENTS_SECONDS
        if clients and not stay:
            logger.warning("%s: drained with %d clients still connected", self._name, clients)
        text = f"waiting for {clients} client{'s' if clients > 1 else ''} to let go" if stay else None
        if self._service.record.error != text:
            self._service.update(only_in=Phase.SAVING, error=text)
        return stay
