"""What the C hooks call in Python. Imported once in the host process, when the first callback starts Python.

The host is slurmstepd, as root: no threads are started here (it forks its tasks later), nothing is printed, and every
exception becomes the answer that refuses, for a callback that fails without an answer would count as success.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spank_ebb_python import ffi, lib  # type: ignore[import-not-found]  # made by the plugin itself, in the host

from ebb.errors import EbbError
from spank import plan

REFUSE, NOTHING, MOUNT = -1, 0, 1


@ffi.def_extern(error=REFUSE)
def ebb_python_plan(step: Any, answer: Any) -> int:
    """Decide what a job's first step on this node mounts. Called once a job and node, in init_post_opt."""
    try:
        asked = plan.Step(
            job=step.job,
            uid=step.uid,
            gid=step.gid,
            groups=tuple(step.groups[i] for i in range(step.group_count)),
            ticket=ffi.string(step.ticket).decode("utf-8", "replace"),
        )
        decided = plan.decide(asked, Path(ffi.string(step.config).decode()), _look_up)
    except EbbError as error:
        return _refuse(answer, error.text)
    except Exception as error:  # the one place that catches everything: C has no other way to learn of it
        return _refuse(answer, f"defect in the SPANK plugin: {type(error).__name__}: {error}; tell the administrator")
    if decided.fetched:
        lib.ebb_answer_ticket(answer, decided.fetched.encode())
    if decided.plan is None:
        return NOTHING
    lib.ebb_answer_data(answer, decided.plan, len(decided.plan))
    return MOUNT


def _look_up(name: str) -> plan.Address | None:
    numeric = ffi.new("char[]", 64)
    found = lib.ebb_address_look_up(name.encode("utf-8", "replace"), numeric, len(numeric))
    return None if found < 0 else plan.Address(ffi.string(numeric).decode(), local=bool(found))


def _refuse(answer: Any, text: str) -> int:
    line = " ".join(text.split()).encode("utf-8", "replace")
    lib.ebb_answer_data(answer, line, len(line))
    return REFUSE
