"""The verbs of the `ebb` tool: looking at buffers, and ending one outside of any job."""

from __future__ import annotations

import pwd
import threading
from collections.abc import Mapping
from typing import Any

from ebb.errors import Conflict, NotAllowed, NotFound, UserError
from orchestrator.buffers import Buffers
from orchestrator.datanodes import Datanodes
from orchestrator.engine import Engine
from orchestrator.hooks import Call
from orchestrator.records import Buffer, Step
from orchestrator.store import Transaction

_AT_ONCE = 100


class OwnerVerbs:
    """For owners and operators, known by the uid at the other end of the socket."""

    def __init__(self, engine: Engine, buffers: Buffers, datanodes: Datanodes, operators: frozenset[str]) -> None:
        self._engine, self._buffers, self._datanodes, self._operators = engine, buffers, datanodes, operators
        self._listing = threading.Lock()

    def list_buffers(self, _call: Call) -> Mapping[str, Any]:
        """Every live buffer, as bbstat shows it to everybody, with its datanodes.

        Any user may ask, as often as he likes, and there may be thousands: one asker at a time, and the engine's lock
        is let go between some buffers and the next.
        """
        shown: list[Mapping[str, Any]] = []
        with self._listing:
            with self._engine.look() as tx:
                buffers = tx.buffers_in(*(step for step in Step if step is not Step.GONE))
            for start in range(0, len(buffers), _AT_ONCE):
                with self._engine.look() as tx:
                    shown += [_shown(tx, buffer) for buffer in buffers[start : start + _AT_ONCE]]
        return {"buffers": shown}

    def destroy_persistent(self, call: Call) -> Mapping[str, Any]:
        """End a buffer: save it to its data_dst, or drop its data with `discard`. Answers at once.

        Raises NotFound, NotAllowed (neither owner nor operator), Conflict (its end was asked for already).
        """
        name, discard = call.body.get("name"), call.body.get("discard", False)
        if not isinstance(name, str) or not isinstance(discard, bool):
            raise UserError("`destroy_persistent` needs name (a text) and discard (true or false)")
        operates = self._operates(call.uid)  # asks the name service, which may hang: not under the engine's lock
        with self._engine.change() as tx:
            buffer = tx.buffer_named(name)
            if buffer is None:
                raise NotFound(f"no buffer named {name}; `ebb list` shows those that there are")
            if call.uid != buffer.uid and not operates:
                raise NotAllowed(f"buffer {name} belongs to {buffer.user}; only its owner or an operator may end it")
            if buffer.step is Step.SAVING:
                raise Conflict(f"buffer {buffer.told()} is being released already: {buffer.reason}")
            after = self._buffers.destroy(tx, buffer, 0, discard)
            self._buffers.place(tx)
        return {"name": name, "buffer_state": after.state.value, "reason": after.reason}

    def release(self, call: Call) -> Mapping[str, Any]:
        """Have a datanode end a service that the store does not know (its database was lost): saved, or discarded.

        Raises NotAllowed for all but operators, Conflict if the store does know it, and what the datanode answers.
        """
        datanode, sid, discard = call.body.get("datanode"), call.body.get("sid"), call.body.get("discard", False)
        if not isinstance(datanode, str) or not isinstance(sid, str) or not isinstance(discard, bool):
            raise UserError("`release` needs datanode and sid (texts) and discard (true or false)")
        if not self._operates(call.uid):
            raise NotAllowed("only an operator may release what no buffer owns")
        with self._engine.look() as tx:
            buffer = tx.buffer_with_sid(sid)
            if buffer is not None and any(a.datanode == datanode for a in tx.allocations_of(buffer.id)):
                raise Conflict(f"service {sid} is the buffer {buffer.told()}: end it with `ebb destroy {buffer.name}`")
        status = self._datanodes.destroy_persistent(datanode, sid, discard)
        return {"phase": status.phase.value, "error": status.error}

    def _operates(self, uid: int) -> bool:
        try:
            return uid == 0 or pwd.getpwuid(uid).pw_name in self._operators
        except KeyError:
            return False


def _shown(tx: Transaction, buffer: Buffer) -> Mapping[str, Any]:
    return {
        "sid": buffer.sid,
        "bbid": buffer.bbid,
        "type": buffer.type.value,
        "name": buffer.name,
        "state": buffer.state.value,
        "reason": buffer.reason,
        "user": buffer.user,
        "uid": buffer.uid,
        "create_time": buffer.create_time,
        "storage": buffer.total.storage,
        "memory": buffer.total.memory,
        "datanodes": [a.datanode for a in tx.allocations_of(buffer.id)],
        "jobs": [job.job_id for _, job in tx.users_of(buffer.id)],
    }
