"""The site's object store as datanodes.conf names it; it travels to dnd in the spec of every service that needs one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ebb.fields import Fields

PREFIX = "HESTIA@"
"""Stands in front of a dataset path (any case) when the data are objects and the file holds their ids."""


class StoreKind(StrEnum):
    """hestia: Hestia's HTTP API. embedded: files in a folder that all datanodes see."""

    HESTIA = "hestia"
    EMBEDDED = "embedded"


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """Where objects are kept. location: the URL of Hestia's API, or the embedded store's folder.

    tiers: how many there are, numbered from 0; new objects are put on tier 0. patience: seconds that a store may be
    without an answer before what waits for it fails.
    """

    kind: StoreKind
    location: str
    tiers: int = 1
    patience: int = 120

    def to_wire(self) -> dict[str, Any]:
        """The JSON object of docs/interfaces.md, "Service spec"."""
        return {
            "kind": self.kind.value,
            "location": self.location,
            "tiers": self.tiers,
            "patience": self.patience,
        }

    @classmethod
    def from_wire(cls, data: object) -> ObjectStore:
        """Raises UserError naming field, value and what is expected."""
        fields = Fields("service spec: object_store", data)
        store = cls(
            fields.enum("kind", StoreKind),
            fields.text("location"),
            fields.integer("tiers", 1),
            fields.integer("patience", 1),
        )
        fields.done()
        return store


def names_objects(path: str | None) -> bool:
    """Whether a data_src or data_dst has HESTIA@ in front."""
    return path is not None and path[: len(PREFIX)].upper() == PREFIX


def file_of(path: str) -> str:
    """The path without HESTIA@."""
    return path[len(PREFIX) :] if names_objects(path) else path


def with_prefix_of(path: str, file: str) -> str:
    """`file`, with HESTIA@ in front if `path` has it."""
    return PREFIX + file if names_objects(path) else file
