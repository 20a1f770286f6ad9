"""Read objects without the cluster, with the rights of whoever calls: for `ebb dataset` on a dataset of two objects.

What writes, and what tries again, is dnd's client.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from ebb import hestia_wire
from ebb.errors import EnvironmentFault, UserError
from ebb.objectpair import checked_id
from ebb.objectstore import ObjectStore, StoreKind

VARIABLE = "HESTIA_USER_TOKEN"
"""Hestia's own name for the variable of the environment that holds a user's token."""
_PIECE = 4 << 20
_TIMEOUT_SECONDS = 30.0
_REDIRECTS = 5


def embedded_data(folder: Path, tier: int, object_id: str) -> Path:
    """Where an embedded store has an object's data on a tier."""
    spread = hashlib.sha256(object_id.encode()).hexdigest()[:2]
    return folder / f"tier{tier}" / spread / checked_id(object_id)


class ObjectReader:
    """One store, as its user: Hestia with the token in $HESTIA_USER_TOKEN, else with the one that it gives anybody."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._url = store.location.rstrip("/") + "/"
        self._token = os.environ.get(VARIABLE, "")

    def read(self, object_id: str) -> Iterator[bytes]:
        """An object's bytes. Raises UserError if it is not there or not for this user, EnvironmentFault for faults."""
        if self._store.kind is StoreKind.EMBEDDED:
            return self._file(object_id)
        return self._body(object_id)

    def _file(self, object_id: str) -> Iterator[bytes]:
        folder = Path(self._store.location)
        try:
            if not os.access(folder, os.X_OK):
                raise UserError(
                    f"object {object_id} cannot be read in the store {folder}: it is root's; run this as root on a "
                    "datanode, or stage the dataset in, which checks every byte"
                )
            paths = (embedded_data(folder, tier, object_id) for tier in range(self._store.tiers))
            path = next((path for path in paths if path.exists()), None)
            if path is None:
                raise UserError(f"object {object_id} has no data in the object store {folder}")
            with path.open("rb", buffering=0) as file:
                while piece := file.read(_PIECE):
                    yield piece
        except OSError as error:
            raise EnvironmentFault(f"object store {folder}: object {object_id}: {error.strerror}") from error

    def _body(self, object_id: str) -> Iterator[bytes]:
        headers = {**hestia_wire.action("get_data", object_id), "authorization": self._token or self._given_token()}
        with self._answer("actions/", headers) as answer:
            if answer.status in (401, 403):
                raise UserError(f"object store {self._url} refuses object {object_id} to you: set {VARIABLE}")
            if answer.status == 404:
                raise UserError(f"object {object_id} is not in the object store {self._url}")
            if answer.status != 200:
                raise EnvironmentFault(f"object store {self._url} answers {answer.status} for object {object_id}")
            while piece := answer.read(_PIECE):
                yield piece

    def _given_token(self) -> str:
        with self._answer("users", {}) as answer:
            token = hestia_wire.given_token(answer.read(1 << 20))
        if token is None:
            raise EnvironmentFault(f"object store {self._url} names no user with a token: set {VARIABLE}")
        self._token = token
        return token

    @contextlib.contextmanager
    def _answer(self, path: str, headers: Mapping[str, str]) -> Iterator[http.client.HTTPResponse]:
        """What a GET gives after redirects. Raises EnvironmentFault, also for what breaks while it is read."""
        url = urljoin(self._url, path)
        try:
            for _ in range(_REDIRECTS + 1):
                place = urlsplit(url)
                kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
                with contextlib.closing(kind(place.hostname or "", place.port, timeout=_TIMEOUT_SECONDS)) as connection:
                    connection.request("GET", place.path, headers=dict(headers))
                    answer = connection.getresponse()
                    location = answer.getheader("Location")
                    if answer.status not in (301, 302, 307, 308) or location is None:
                        yield answer
                        return
                    url = urljoin(url, location)
        except (OSError, http.client.HTTPException) as error:
            raise EnvironmentFault(f"object store {self._url} does not answer: {error}") from error
        raise EnvironmentFault(f"object store {self._url} redirects more than {_REDIRECTS} times")
