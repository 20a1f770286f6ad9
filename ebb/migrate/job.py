"""The migration's job, on its first node: `python -m ebb.migrate.job WORK`. Scans, starts tasks, writes the result."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ebb.errors import EbbError, EnvironmentFault, UserError
from ebb.migrate import place, rsync
from ebb.migrate.balance import balance
from ebb.migrate.pattern import matcher
from ebb.migrate.scan import Found, Kind, scan
from ebb.migrate.task import check_mount
from ebb.migrate.work import Request, Work, here

INCOMPLETE = b".ebb-migrate-incomplete"
"""In the root of a dataset whose migration has not come to a good end."""


class Job:
    """One migration, from the buffer being mounted to the result."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.request: Request = work.request()
        self.sources = work.sources(self.request)
        self.target = work.target(self.request)
        self.mark = os.path.join(os.fsencode(work.mountpoint), INCOMPLETE)

    def run(self) -> dict[str, Any]:
        """Copy and verify; the result. Raises EbbError, OSError."""
        check_mount(self.work)
        rsync.require()
        self.work.put("plan.json", {"phase": "scan"})
        found = self.look()
        if not self.request.outwards:
            Path(os.fsdecode(self.mark)).write_text(f"job {os.environ.get('SLURM_JOB_ID')} has not finished its copy\n")
        place.make_directories(self.target, found.of(Kind.DIRECTORY))
        self.divide(found)
        xattrs = place.takes_xattrs(self.target)
        copied = self.phase("copy", found, xattrs)
        place.make_links(self.target, found.of(Kind.LINK))
        place.finish_directories(self.sources, self.target, found.of(Kind.DIRECTORY), xattrs=xattrs)
        verified = self.phase("verify", found, xattrs)
        result = self.result(found) | {"seconds": [copied, verified]}
        if result["ok"] and not self.request.outwards:
            os.unlink(self.mark)
            if self.request.before and self.request.alone:
                # The old dataset has its own name still, until the new one is whole in its place. Who watches does this
                # after saving: what stays untouched until then is saved by its changes alone.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.request.before)
        return result

    def look(self) -> Found:
        """Scan, and refuse what cannot go well. The login node did it too; since then time has passed."""
        request = self.request
        if request.outwards:
            if not (os.path.isdir(self.target) and os.access(self.target, os.W_OK | os.X_OK)):
                raise UserError(f"`{request.target}` is no directory that can be written to on node {here()}")
            wanted = matcher(os.fsencode(request.pattern or ""))
            found = scan(self.sources, keep=lambda path: path != INCOMPLETE and wanted(path))
            if not found.entries:
                raise UserError(f"nothing in the dataset matches `{request.pattern}`")
            if os.path.lexists(self.mark):
                print("ebb: this dataset is incomplete: the migration into it did not come to a good end")
        else:
            found = scan(self.sources, skip=[os.fsencode(self.work.path.parent)])
        if found.unreadable:
            raise UserError(
                f"{len(found.unreadable)} entries cannot be read, such as `{os.fsdecode(found.unreadable[0])}`"
            )
        there = place.check_conflicts(self.target, found, replace=request.replace)
        place.check_room(self.target, found, there, "the target" if request.outwards else "the buffer")
        return found

    def divide(self, found: Found) -> None:
        """Write the manifests of the parts."""
        entries = found.of(Kind.FILE, Kind.SYMLINK)
        parts = balance([entry.size for entry in entries], self.request.nodes * self.request.parallel)
        for number, part in enumerate(parts):
            self.work.put_entries(f"{number}", [entries[index] for index in part])

    def phase(self, name: str, found: Found, xattrs: bool) -> float:
        """Run one phase on all nodes; its seconds. Raises EnvironmentFault with the first node's reason."""
        total = {"bytes": found.size, "files": len(found.of(Kind.FILE, Kind.SYMLINK))}
        self.work.put("plan.json", {"phase": name, "xattrs": xattrs, **total})
        nodes, began = self.request.nodes, time.monotonic()
        done = subprocess.run(
            ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1",
             f"--cpus-per-task={self.request.parallel}", "--kill-on-bad-exit=0", "--input=none", "--export=ALL",
             sys.executable, "-P", "-m", "ebb.migrate.task", name, str(self.work.path)],
            check=False,
        )  # fmt: skip
        failed = [self.work.get(f"parts/failed.{name}.{node}") for node in range(nodes)]
        for why in filter(None, failed):
            raise EnvironmentFault(why)
        if done.returncode != 0:
            raise EnvironmentFault(f"the {name} step ended with {done.returncode}; what it said is in {self.work.log}")
        return time.monotonic() - began

    def result(self, found: Found) -> dict[str, Any]:
        """Put together what the nodes found."""
        parts = [self.work.get(f"parts/{n}.found") for n in range(self.request.nodes * self.request.parallel)]
        if any(part is None for part in parts):
            raise EnvironmentFault("a part was not verified: its node wrote down no result")
        wrong = [tuple(finding) for part in parts for finding in part["found"]]
        wrong += place.wrong_links(self.target, found.of(Kind.LINK))
        wrong += place.changed_directories(self.sources, found.of(Kind.DIRECTORY))
        return {
            "ok": not wrong,
            "wrong": sorted(wrong),
            "bytes": sum(part["bytes"] for part in parts),
            "verified": sum(part["files"] for part in parts),
            "counts": {kind.name.lower(): len(found.of(kind)) for kind in Kind},
            "size": found.size,
            "special": [os.fsdecode(path) for path in found.special],
            "bare": sum(part["bare"] for part in parts),
        }


def main() -> int:
    """The command line."""
    work = Work(Path(sys.argv[1]))
    try:
        result = Job(work).run()
    except (EbbError, OSError) as error:
        result = {"ok": False, "error": error.text if isinstance(error, EbbError) else str(error)}
        print(f"ebb: {result['error']}", file=sys.stderr)
    work.put("result.json", result)
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
