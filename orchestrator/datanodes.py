"""The orchestrator's side of the wire to the datanodes: verbs of dnd as methods, a look at one or at all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ebb.errors import EbbError, EnvironmentFault
from ebb.model import Datanode, ServiceSpec, Status
from ebb.sbb import Peer
from ebb.transport import Client

CALL_SECONDS = 15.0
LIST_THREADS = 16
# Before a job is let in the datanode has the service checked, at the longest for so long (dnd/health.py).
HEALTH_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Listing:
    """What a datanode says it has."""

    services: tuple[Status, ...]
    strays: tuple[str, ...]


class Datanodes:
    """Calls the dnd of each datanode by its name in datanodes.conf."""

    def __init__(self, datanodes: Iterable[Datanode], munge_socket: str = "", healthchecker: str | None = None) -> None:
        self._munge_socket = munge_socket
        self._clients: Mapping[str, Client] = {}
        self.replace(datanodes, healthchecker)

    def replace(self, datanodes: Iterable[Datanode], healthchecker: str | None = None) -> None:
        """Take a new datanodes.conf; calls under way end with the old one.

        healthchecker: path of the health checker there, told with every call.
        """
        self._healthchecker = healthchecker
        self._clients = {
            node.name: Client(node.address, node.port, munge_socket=self._munge_socket) for node in datanodes
        }

    def create_persistent(self, datanode: str, spec: ServiceSpec) -> Status:
        """Ask for a service; again is harmless."""
        return self._status(datanode, "create_persistent", spec.to_wire())

    def destroy_persistent(self, datanode: str, sid: str, discard: bool) -> Status:
        """Ask for a service's end, its data saved first unless `discard`; again is harmless."""
        return self._status(datanode, "destroy_persistent", {"sid": sid, "discard": discard})

    def status(self, datanode: str, sid: str, revision: int, wait: int) -> Status:
        """The status once it differs from `revision`, or after `wait` seconds."""
        return self._status(
            datanode, "status", {"sid": sid, "revision": revision, "wait": wait}, timeout=wait + CALL_SECONDS
        )

    def pre_run(self, datanode: str, sid: str, job_id: int, clients: Iterable[str]) -> Status:
        """Let a job's nodes in."""
        body = {"sid": sid, "job_id": job_id, "clients": list(clients)}
        return self._status(datanode, "pre_run", body, timeout=CALL_SECONDS + HEALTH_SECONDS)

    def post_run(self, datanode: str, sid: str, job_id: int) -> Status:
        """Shut a job's nodes out."""
        return self._status(datanode, "post_run", {"sid": sid, "job_id": job_id})

    def peers(self, datanode: str, sid: str, servers: Iterable[Peer]) -> Status:
        """Tell a server of an SBB where all of its buffer's are; again is harmless."""
        return self._status(datanode, "peers", {"sid": sid, "servers": [server.to_wire() for server in servers]})

    def list(self, datanode: str) -> Listing:
        """Everything the datanode has."""
        answer = self._call(datanode, "list", {}, CALL_SECONDS)
        return Listing(
            tuple(Status.from_wire(item) for item in answer.get("services", [])),
            tuple(_stray(item) for item in answer.get("strays", [])),
        )

    def list_all(self) -> dict[str, Listing | EbbError]:
        """`list` of every datanode, many at a time; the error of those that do not answer."""
        names = list(self._clients)
        with ThreadPoolExecutor(LIST_THREADS, thread_name_prefix="list") as pool:
            return dict(zip(names, pool.map(self._list_or_error, names), strict=True))

    def _list_or_error(self, datanode: str) -> Listing | EbbError:
        try:
            return self.list(datanode)
        except EbbError as error:
            return error

    def _status(self, datanode: str, verb: str, body: Mapping[str, Any], timeout: float = CALL_SECONDS) -> Status:
        return Status.from_wire(self._call(datanode, verb, body, timeout))

    def _call(self, datanode: str, verb: str, body: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        client = self._clients.get(datanode)
        if client is None:
            raise EnvironmentFault(
                f"datanode {datanode} is not in datanodes.conf any more: put it back, its buffers "
                "cannot be reached without"
            )
        return client.call(verb, {**body, "healthchecker": self._healthchecker}, timeout=timeout)


def _stray(item: object) -> str:
    """How a log line names what no service on the datanode owns."""
    if not isinstance(item, Mapping):
        return str(item)
    where = f"{item['volume_group']}/" if "volume_group" in item else ""
    return f"{item.get('kind', 'thing')} {where}{item.get('name', '?')}"
