"""One root of a DASI buffer as the GBF code sees it: a service of its own, which is a part of another's record."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from dnd.journal import Part, Record
from dnd.service import Service
from dnd.staging.progress import Tracker
from ebb.model import Phase


class RootWork:
    """A `Work` for root number `index` of `service`. Used by one thread at a time: whoever holds the service's lock."""

    def __init__(self, service: Service, index: int) -> None:
        self._service, self._index = service, index
        self.deaths: list[float] = []
        self.waits_since: float | None = None

    @property
    def part(self) -> Part:
        """The root's part of the record as it is now."""
        return self._service.record.parts[self._index]

    @property
    def record(self) -> Record:
        """The record of a GBF that this root would be."""
        return self.record_of(self._service.record, self._index)

    @staticmethod
    def record_of(whole: Record, index: int) -> Record:
        """The same, of a record at hand."""
        part = whole.parts[index]
        spec = replace(
            whole.spec, storage_size=part.size, path=part.path, data_src=part.data_src, data_dst=part.data_dst
        )
        return replace(
            whole,
            spec=spec,
            number=part.number,
            port=part.port,
            volume=part.volume,
            server=part.server,
            error=part.error,
            parts=(),
        )

    @property
    def cancel(self) -> threading.Event:
        """The whole service's."""
        return self._service.cancel

    def update(self, *, only_in: Phase | None = None, **changes: Any) -> bool:
        """Change this root's part; the service's error is that of all its roots."""
        parts = list(self._service.record.parts)
        parts[self._index] = replace(parts[self._index], **changes)
        more: dict[str, Any] = {"parts": tuple(parts)}
        if "error" in changes:
            more["error"] = "; ".join(f"root {each.path}: {each.error}" for each in parts if each.error) or None
        return self._service.update(only_in=only_in, **more)

    def new_tracker(self, what: str = "") -> Tracker:
        """Progress is told root by root."""
        return self._service.new_tracker(f"{self.part.path} {what}" if what else "")
