"""Hestia's HTTP API (`/api/v1`), as its user guide and servers have it.

GET users                 no authentication; the first user's first token goes into `authorization`
PUT objects               {"id", "name"}: create; answers a list of one
GET, DELETE objects/ID    a list of one or 404; 500 while data remain on a tier
PUT, GET, POST actions/   headers hestia.hsm_action.*: put_data, get_data; copy_data, move_data, release_data
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from dnd.hestia.rest import Refused, Request, Rest
from dnd.hestia.store import TIER, Body, Filling, NoObject, Pauses, StoreFault
from ebb import hestia_wire
from ebb.errors import Conflict
from ebb.objectpair import checked_id

_CHECK_PATIENCE = 10.0
_DENIED = frozenset({401, 403})
_GONE = frozenset({404})


class HestiaStore:
    """The `ObjectStore` behind a Hestia server's URL. The token stays in here: no message and no repr has it."""

    def __init__(self, url: str, tiers: int, patience: float, pause: Pauses) -> None:
        self._url, self._tiers = url, tiers
        self._rest = Rest(url, patience, pause)
        self._hasty = Rest(url, min(patience, _CHECK_PATIENCE), pause)
        self._token = ""

    def check(self) -> None:
        """See ObjectStore."""
        self._log_in(self._hasty)

    def create(self, object_id: str, name: str) -> None:
        """See ObjectStore."""
        body = json.dumps({"id": checked_id(object_id), "name": name}).encode()
        made = self._json(
            Request("PUT", "objects", {"content-type": "application/json"}, lambda: iter([body]), len(body))
        )
        found = _first(made).get("id")
        if found != object_id:
            raise StoreFault(f"object store {self._url} made object `{found}` where {object_id} was asked for")

    def put(self, object_id: str, size: int, body: Body) -> None:
        """See ObjectStore."""
        headers = {**hestia_wire.action("put_data", object_id), "hestia.hsm_action.target_tier": str(TIER)}
        answer = self._json(Request("PUT", "actions/", headers, body, size))
        status = str(_first(answer).get("status", ""))
        if "error" in status:
            raise StoreFault(f"object store {self._url}: put_data {object_id} ended with status {status}")

    def get(self, object_id: str, offset: int = 0) -> Iterator[bytes]:
        """See ObjectStore."""
        request = Request("GET", "actions/", hestia_wire.action("get_data", object_id))
        for again in (False, True):
            try:
                yield from self._rest.stream(self._with_token(request), offset)
                return
            except Refused as error:
                if error.status in _GONE:
                    raise NoObject(error.text) from error
                if error.status not in _DENIED or again:
                    raise
                self._token = ""

    def local(self, object_id: str) -> int | None:
        """See ObjectStore."""
        return None

    def fill(self, object_id: str) -> Filling | None:
        """See ObjectStore. A put is one request, of a length that is known, from its first byte on."""
        return None

    def exists(self, object_id: str) -> bool:
        """See ObjectStore."""
        try:
            self._read(object_id)
        except NoObject:
            return False
        return True

    def list(self) -> list[str]:
        """See ObjectStore."""
        listing = self._json(Request("GET", "objects"))
        return sorted(str(each["id"]) for each in listing if isinstance(each, dict) and "id" in each)

    def locate(self, object_id: str) -> tuple[int, ...]:
        """See ObjectStore. A server that does not number its tiers is thought to have data on all of them."""
        found = self._read(object_id).get("tiers")
        numbers = [_tier(each) for each in found] if isinstance(found, list) else [None]
        if None in numbers:
            return tuple(range(self._tiers))
        return tuple(sorted({number for number in numbers if number is not None}))

    def copy(self, object_id: str, source: int, target: int) -> None:
        """See ObjectStore."""
        self._between("copy_data", object_id, source, target)

    def move(self, object_id: str, source: int, target: int) -> None:
        """See ObjectStore."""
        self._between("move_data", object_id, source, target)

    def release(self, object_id: str, tier: int) -> None:
        """See ObjectStore. A tier without data may be an error there; what stays on one is seen when it is deleted."""
        headers = {**hestia_wire.action("release_data", object_id), "hestia.hsm_action.source_tier": str(tier)}
        self._ask(Request("POST", "actions/", headers), frozenset({400, 404, 409, 500}))

    def delete(self, object_id: str) -> None:
        """See ObjectStore."""
        status, content = self._ask(Request("DELETE", f"objects/{checked_id(object_id)}"), frozenset({404, 409, 500}))
        if status in (409, 500) and self.exists(object_id):
            said = content[:200].decode("utf-8", "replace")
            raise Conflict(f"object {object_id} cannot be deleted, data may remain on a tier: {said}")

    def _between(self, action: str, object_id: str, source: int, target: int) -> None:
        headers = {
            **hestia_wire.action(action, object_id),
            "hestia.hsm_action.source_tier": str(source),
            "hestia.hsm_action.target_tier": str(target),
        }
        status, _ = self._ask(Request("POST", "actions/", headers), _GONE)
        if status in _GONE:
            raise NoObject(f"object {object_id} has no data on tier {source} of {self._url}")

    def _read(self, object_id: str) -> dict[str, Any]:
        status, content = self._ask(Request("GET", f"objects/{checked_id(object_id)}"), _GONE)
        found = [] if status in _GONE else self._parsed(content)
        if not found or not _first(found):
            raise NoObject(f"object {object_id} is not in the object store {self._url}")
        return _first(found)

    def _json(self, request: Request) -> Any:
        return self._parsed(self._ask(request)[1])

    def _parsed(self, content: bytes) -> Any:
        try:
            return json.loads(content)
        except ValueError:
            raise StoreFault(f"object store {self._url} answers with something that is no JSON") from None

    def _ask(self, request: Request, final: frozenset[int] = frozenset()) -> tuple[int, bytes]:
        try:
            return self._rest.ask(self._with_token(request), final=final)
        except Refused as error:
            if error.status not in _DENIED:
                raise
            self._token = ""  # it may have been changed
            return self._rest.ask(self._with_token(request), final=final)

    def _with_token(self, request: Request) -> Request:
        if not self._token:
            self._log_in(self._rest)
        headers = {**request.headers, "authorization": self._token}
        return Request(request.method, request.path, headers, request.body, request.size)

    def _log_in(self, rest: Rest) -> None:
        _, content = rest.ask(Request("GET", "users"))
        token = hestia_wire.given_token(content)
        if token is None:  # what came instead is not shown: it may hold a token
            raise StoreFault(f"object store {self._url} names no user with a token")
        self._token = token


def _first(answer: Any) -> dict[str, Any]:
    """An object stands alone or in a list of one."""
    each = answer[0] if isinstance(answer, list) and answer else answer
    return each if isinstance(each, dict) else {}


def _tier(entry: Any) -> int | None:
    value = (
        next((entry[key] for key in ("tier", "name", "id") if key in entry), None) if isinstance(entry, dict) else entry
    )
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() else None
