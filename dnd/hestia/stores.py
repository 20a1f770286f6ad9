"""The client of the store that datanodes.conf names."""

from __future__ import annotations

from pathlib import Path

from dnd.hestia.api import HestiaStore
from dnd.hestia.embedded import EmbeddedStore
from dnd.hestia.store import ObjectStore, Pauses
from ebb.objectstore import ObjectStore as StoreSpec
from ebb.objectstore import StoreKind


def open_store(spec: StoreSpec, pause: Pauses | None = None) -> ObjectStore:
    """A client for one thread. pause: how it waits between tries, so that a cancelled work does not."""
    if spec.kind is StoreKind.EMBEDDED:
        return EmbeddedStore(Path(spec.location), spec.tiers)
    return HestiaStore(spec.location, spec.tiers, spec.patience, pause or Pauses())
