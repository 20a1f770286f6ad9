"""Keeps `/run/ebb/bbstat`, its chunk for Lua, and `/run/ebb/capacity` true: aside, then renamed, after every change."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from pathlib import Path

from ebb import log
from ebb.config import Config
from ebb.model import Resources
from orchestrator import bbstat, luachunk
from orchestrator.engine import Engine
from orchestrator.placement import Placement
from orchestrator.plan import SERVED
from orchestrator.records import Buffer, Step
from orchestrator.store import Transaction

# At the latest after this many seconds the file is looked at again: lines of ended buffers leave it.
IDLE_SECONDS = 5.0
# The share of its time that publishing may take when changes come without end.
PAUSE_PER_WORK = 4.0

logger = logging.getLogger(__name__)


class Publisher:
    """One thread that writes the files."""

    def __init__(self, engine: Engine, placement: Placement, settings: Config) -> None:
        self._engine, self._placement, self._shown_seconds = engine, placement, settings.staged_out_seconds
        self._bbstat, self._capacity = settings.run_dir / "bbstat", settings.run_dir / "capacity"
        self._chunk = settings.run_dir / "bbstat.luac"
        self._offers = {
            "Types": ",".join(sorted(SERVED)),
            "MountPrefixes": ",".join(settings.mount_prefixes),
        }
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="publish", daemon=True)
        self._written: dict[Path, bytes] = {}

    def start(self) -> None:
        """Write once, then after every change."""
        self.publish()
        self._thread.start()

    def stop(self) -> None:
        """End with the next round; the files stay, so that bbstat answers while the orchestrator is down."""
        self._stop.set()

    def _loop(self) -> None:
        version = -1
        while not self._stop.is_set():
            version = self._engine.wait_for_change(version, IDLE_SECONDS)
            began = time.monotonic()
            with log.request(log.new_request_id("publish")):
                try:
                    self.publish()
                except Exception:
                    logger.exception("bbstat could not be written; the next change tries again")
            self._stop.wait((time.monotonic() - began) * PAUSE_PER_WORK)

    def publish(self) -> None:
        """Write the files if they would differ from what is there; the chunk first, which never is the older one."""
        with self._engine.look() as tx:
            rows = self._rows(tx)
            total, used = self._placement.totals()
            site = self._placement.site
            offers = {**self._offers, "ObjectStore": "yes" if site.object_store else "no"}
            capacity = bbstat.render_capacity(site, offers)
        text = bbstat.render(rows, total, used).encode(errors="replace")
        if self._written.get(self._bbstat) != text:
            bbstat.write_atomic(self._chunk, luachunk.chunk(text))
        self._write(self._bbstat, text)
        self._write(self._capacity, capacity.encode(errors="replace"))

    def _rows(self, tx: Transaction) -> list[bbstat.Row]:
        """What lives and what ended lately, but no old line of a name that is in use again: clients take the first."""
        shown = tx.shown_buffers(time.time() - self._shown_seconds)
        newest = {buffer.name: buffer.id for buffer in shown}
        return [_row(b) for b in shown if b.step is not Step.GONE or newest[b.name] == b.id]

    def _write(self, path: Path, text: bytes) -> None:
        if self._written.get(path) != text:
            bbstat.write_atomic(path, text)
            self._written[path] = text

    def as_json(self) -> bytes:
        """The same for programs: GET /v1/buffers."""
        with self._engine.look() as tx:
            rows = self._rows(tx)
        return json.dumps([dataclasses.asdict(row) for row in rows]).encode()


def _row(buffer: Buffer) -> bbstat.Row:
    # What is gone holds nothing, whatever it had asked for.
    total = Resources() if buffer.step is Step.GONE else buffer.total
    return bbstat.Row(
        buffer.type,
        buffer.bbid,
        buffer.name,
        buffer.state,
        buffer.create_time,
        total.memory,
        total.storage,
        buffer.uid,
        buffer.user,
        buffer.reason,
    )
