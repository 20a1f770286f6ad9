"""The health database: a JSON list in one file, always whole, changed by one process at a time.

A change is written aside, synced and renamed. Readers need no lock. A file that is no such list is set aside by the
next change, never overwritten: somebody may want to see what became of it.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ebb.durable import sync_folder
from ebb.errors import EnvironmentFault
from healthchecker.service import Service

LOCK_SECONDS = 5.0


class Corrupt(EnvironmentFault):
    """The file is there, but it is no health database."""


class Database:
    """One file. Made anew by every command; `warnings`: what `change` had to say."""

    def __init__(self, path: Path, *, lock_seconds: float = LOCK_SECONDS) -> None:
        self.path = path
        self.warnings: list[str] = []
        self._lock_seconds = lock_seconds

    def read(self) -> list[Service]:
        """All services; none if there is no file yet. Raises Corrupt, EnvironmentFault."""
        try:
            data = json.loads(self.path.read_bytes())
            if not isinstance(data, list):
                raise TypeError(f"it holds no list but a {type(data).__name__}")
            return [Service.from_json(each) for each in data]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise EnvironmentFault(f"health database {self.path} cannot be read: {error.strerror}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Corrupt(
                f"health database {self.path} is corrupted ({error!r}): move it away; restarting ebb-dnd registers "
                "its services again"
            ) from error

    @contextmanager
    def change(self) -> Iterator[dict[str, Service]]:
        """The services by their sids, to be changed in place; written if they differ at the end.

        Raises EnvironmentFault if the file cannot be written, or another process keeps its lock too long.
        """
        with self._lock():
            try:
                before = self.read()
            except Corrupt as error:
                before = []
                self._set_aside(error)
            services = {service.sid: service for service in before}
            yield services
            if list(services.values()) != before:
                self._write(list(services.values()))

    @contextmanager
    def _lock(self) -> Iterator[None]:
        # A file beside it: the database itself is another file after each change.
        path = self.path.with_name(f".{self.path.name}.lock")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise EnvironmentFault(f"health database {self.path} cannot be locked: {error.strerror}") from error
        try:
            deadline = time.monotonic() + self._lock_seconds
            while not _locked(descriptor):
                if time.monotonic() > deadline:
                    raise EnvironmentFault(
                        f"health database {self.path} was not free within {self._lock_seconds:g} s: another process "
                        f"holds {path}; `fuser {path}` names it"
                    )
                time.sleep(0.005)
            yield
        finally:
            os.close(descriptor)

    def _set_aside(self, error: Corrupt) -> None:
        aside = self.path.with_name(f"{self.path.name}.corrupt-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}")
        os.replace(self.path, aside)
        self.warnings.append(f"{error.text.partition(':')[0]}; it is kept as {aside}, and a new one begun")

    def _write(self, services: list[Service]) -> None:
        aside = self.path.with_name(f".{self.path.name}.new")
        text = json.dumps([service.to_json() for service in services], indent=1) + "\n"
        try:
            with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise EnvironmentFault(
                f"health database {self.path} cannot be written: {error.strerror}; the old one stands"
            ) from error


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
