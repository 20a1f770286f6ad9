"""dnd's verbs on the wire (docs/interfaces.md): read the body, call the lifecycle, write the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from dnd.health import Health
from dnd.lifecycle import Lifecycle
from dnd.strays import Strays
from dnd.tools.volumes import VolumeBackend, groups_of
from ebb.fields import Fields
from ebb.http_server import Request
from ebb.model import Backend, ServiceSpec
from ebb.sbb import Peer

_LONGEST_WAIT = 30
_Verb = Callable[[Request], dict[str, Any]]


class DndVerbs:
    """The table that the server serves."""

    def __init__(
        self,
        node: str,
        version: str,
        lifecycle: Lifecycle,
        backends: Mapping[Backend, VolumeBackend],
        strays: Strays,
        health: Health,
    ) -> None:
        self._node, self._version = node, version
        self._lifecycle = lifecycle
        self._backends = backends
        self._strays = strays
        self._health = health

    def table(self) -> dict[str, _Verb]:
        """Verb to function."""
        return {name: self._with_checker(verb) for name, verb in self._verbs().items()}

    def _with_checker(self, verb: _Verb) -> _Verb:
        """Every request of the orchestrator's may carry the health checker in force beside what it asks."""

        def call(request: Request) -> dict[str, Any]:
            if "healthchecker" in request.body:
                self._health.use_program(request.body["healthchecker"])
                rest = {name: value for name, value in request.body.items() if name != "healthchecker"}
                request = replace(request, body=rest)
            return verb(request)

        return call

    def _verbs(self) -> dict[str, _Verb]:
        return {
            "create_persistent": self.create_persistent,
            "destroy_persistent": self.destroy_persistent,
            "status": self.status,
            "pre_run": self.pre_run,
            "post_run": self.post_run,
            "peers": self.peers,
            "list": self.list,
        }

    def create_persistent(self, request: Request) -> dict[str, Any]:
        """Begin to make a service."""
        return self._lifecycle.create_persistent(ServiceSpec.from_wire(request.body)).to_wire()

    def destroy_persistent(self, request: Request) -> dict[str, Any]:
        """Begin to save and free a service; with `discard` without saving."""
        fields = Fields("destroy_persistent", request.body)
        discard = request.body.get("discard", False)
        if not isinstance(discard, bool):
            raise fields.refuse("discard", "true or false")
        return self._lifecycle.destroy_persistent(fields.text("sid"), discard=discard).to_wire()

    def status(self, request: Request) -> dict[str, Any]:
        """The status, held back until it differs from `revision` or `wait` seconds are over."""
        fields = Fields("status", request.body)
        revision = fields.integer("revision") if request.body.get("revision") is not None else None
        wait = fields.number("wait") if request.body.get("wait") is not None else 0
        return self._lifecycle.status(fields.text("sid"), revision, min(wait, _LONGEST_WAIT)).to_wire()

    def pre_run(self, request: Request) -> dict[str, Any]:
        """Let a job's nodes in."""
        fields = Fields("pre_run", request.body)
        clients = fields.list_of("clients", _address)
        return self._lifecycle.pre_run(fields.text("sid"), str(fields.integer("job_id", 1)), clients).to_wire()

    def post_run(self, request: Request) -> dict[str, Any]:
        """Shut a job's nodes out."""
        fields = Fields("post_run", request.body)
        return self._lifecycle.post_run(fields.text("sid"), str(fields.integer("job_id", 1))).to_wire()

    def peers(self, request: Request) -> dict[str, Any]:
        """Tell an SBB's server where all servers of its buffer are."""
        fields = Fields("peers", request.body)
        peers = fields.list_of("servers", Peer.from_wire)
        return self._lifecycle.peers(fields.text("sid"), peers).to_wire()

    def list(self, _: Request) -> dict[str, Any]:
        """All services, the volume groups, and what is here that no service owns."""
        groups = groups_of(self._backends)
        return {
            "node": self._node,
            "version": self._version,
            "services": [service.status().to_wire() for service in self._lifecycle.alive()],
            "volume_groups": {name: {"size": space.size, "free": space.free} for name, space in groups.items()},
            "strays": self._strays.found(),
        }


def _address(data: object) -> str:
    return Fields("pre_run: clients", {"address": data}).text("address")
