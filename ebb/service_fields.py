"""Fields that the wire objects of services share; `ebb.model` reads them."""

from __future__ import annotations

from ebb.fields import Fields


def read_sid(fields: Fields) -> str:
    """The field `sid`: `42`, `42-2`."""
    sid = fields.text("sid")
    parts = sid.split("-")
    # The sid names files and folders on the datanode: nothing but digits and one dash gets that far.
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and part[0] != "0" for part in parts):
        raise fields.refuse("sid", "<job id> or <job id>-<n>")
    return sid


def read_pid(data: object) -> int:
    """One of a status's `daemons`."""
    fields = Fields("status: daemons", data)
    pid = fields.integer("pid", least=1)
    fields.done()
    return pid


def read_jobs(fields: Fields) -> dict[str, tuple[str, ...]]:
    """The field `jobs` of a status: job id to addresses."""
    jobs: dict[str, tuple[str, ...]] = {}
    raw = Fields("status: jobs", fields.mapping("jobs"))
    for job in fields.mapping("jobs"):
        jobs[job] = raw.list_of(job, _address)
    return jobs


def _address(data: object) -> str:
    return Fields("status: jobs", {"address": data}).text("address")
