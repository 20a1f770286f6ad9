"""What the lifecycle asks of a type of service; GBF, DASI and SBB answer. Every method can be called twice.

Called from worker threads with the service's work lock held and the phase already in the journal.
"""

from __future__ import annotations

from typing import Protocol

from dnd.health import Flash
from dnd.journal import Record
from dnd.service import Service
from ebb.model import Progress, ServiceSpec, Status


class Kind(Protocol):
    """One type of service."""

    folder: str
    """The folder of its services' own folders, below the run directory."""

    gathers: bool
    """Whether a saved service waits for the word to be released: its buffer's other datanodes may still need it."""

    def refuse(self, spec: ServiceSpec) -> None:
        """Refuse at once what no work could make good. Raises UserError."""

    def saves(self, spec: ServiceSpec) -> bool:
        """Whether there is something to save before it is released."""

    def volume_name(self, spec: ServiceSpec) -> str:
        """The name of its volume; empty if it has none."""

    def describe(self, record: Record, moving: Progress | None) -> Status:
        """The status of docs/interfaces.md."""

    def flash(self, record: Record) -> list[Flash]:
        """Its volumes, for the health checker."""

    def create(self, service: Service) -> None:
        """Make it. Raises EbbError; the lifecycle then calls `release`."""

    def save(self, service: Service) -> None:
        """Write the data where they belong. Raises EbbError, NotYet or Cancelled; the data stay where they are."""

    def release(self, service: Service) -> None:
        """Free everything; succeeds if nothing is there. Raises EnvironmentFault with what could not be freed."""

    def admit(self, service: Service) -> None:
        """Let in whom the record's jobs name, and nobody else."""

    def resume(self, service: Service) -> None:
        """After the daemon's or the node's restart."""

    def keep(self, service: Service) -> None:
        """Called every second or so while it is ready, unless an earlier call is under way.

        Services of one type share a few threads for it: one that takes long should be rare.
        """
