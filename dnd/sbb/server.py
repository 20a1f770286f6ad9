"""One `sbbd` process: its configuration, its start as the buffer's owner, its end. It outlives dnd."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dnd.sbb import confine, control
from dnd.tools import mounts, process
from dnd.tools.process import ProcessId
from ebb.errors import EnvironmentFault, UserError
from ebb.model import ServiceSpec
from ebb.run import Runner
from ebb.sbb import SbbSpec

START_SECONDS = 60.0
_STOP_SECONDS = 5.0
_PLACES = ("/usr/libexec/ebb", "/usr/lib/ebb", str(Path(__file__).parents[2] / "build"))
# What the program needs beside buffered data: threads, connections, tables, names of files that are not drained.
_LEAST_OWN_MEMORY = 64 << 20
_OWN_STORAGE = 16 << 20
# Two of root's, two sockets, two lists of names, folders: more are the owner's.
_FILES = 128
_LEAST_MEMORY = 2 * _LEAST_OWN_MEMORY


@dataclass(frozen=True, slots=True)
class Settings:
    """What a site says of all its servers (ebb.conf). drain_rate: bytes a second, 0: as fast as it goes."""

    drain_rate: int = 0
    drain_delay: int = 5


@dataclass(frozen=True, slots=True)
class SbbServer:
    """Where one server's files are and how it listens. folder: root's, a file system of its own (`mount_folder`), with
    `own`, a folder of the owner's, in it.
    """

    spec: ServiceSpec
    sbb: SbbSpec
    address: str
    port: int
    folder: Path
    settings: Settings

    @property
    def file(self) -> Path:
        """Its configuration; also the word of its command line by which it is found again."""
        return self.folder / "sbbd.conf"

    @property
    def log(self) -> Path:
        """What it writes to standard error."""
        return self.folder / "sbbd.log"

    @property
    def data(self) -> Path:
        """Where its volume is mounted, if it has one."""
        return self.folder / "data"

    @property
    def store(self) -> Path | None:
        """Its folder on that volume."""
        return self.data / "store" if self.spec.storage_size else None

    @property
    def control(self) -> Path:
        """Its control socket."""
        return self.folder / "own" / "control"

    @property
    def unix(self) -> Path:
        """The socket for clients on this node."""
        return self.folder / "own" / "sbb"

    def mount_folder(self, run: Runner) -> None:
        """Make its folder a file system of its own, in memory, before anything is in it: whatever the owner puts into
        `own`, or has their server write to its log, takes no more than the server's own memory, none of the node's run
        directory, and goes as a whole. Again is harmless. Raises EnvironmentFault.
        """
        if not self.folder.exists() or not any(self.folder.iterdir()):
            mounts.mount_tmpfs(run, self.folder, self._own_memory, _FILES)

    def prepare(self) -> None:
        """Make folders and configuration. Again is harmless. Raises EnvironmentFault if the folder is full."""
        try:
            for folder in (self.folder / "own", *([self.store] if self.store else [])):
                folder.mkdir(exist_ok=True)
                os.chown(folder, self.spec.uid, self.spec.gid, follow_symlinks=False)
                folder.chmod(0o700)
            aside = self.file.with_suffix(".new")
            aside.write_text(self.text())
            aside.chmod(0o400)
            os.chown(aside, self.spec.uid, self.spec.gid)
            os.replace(aside, self.file)
        except OSError as error:
            raise EnvironmentFault(
                f"{self.folder} cannot be made ready for sbbd: {error.strerror}; it has {self._own_memory} bytes: look "
                f"what is in {self.folder / 'own'}"
            ) from error

    @property
    def _own_memory(self) -> int:
        """Of the flavor's memory what is not for buffered data."""
        return max(_LEAST_OWN_MEMORY, self.sbb.memory // 16)

    def text(self) -> str:
        """The configuration (docs/sbb.md)."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        lines = [
            f"sid={self.spec.sid}",
            f"index={self.sbb.index}",
            f"count={self.sbb.count}",
            f"listen={host}:{self.port}",
            f"unix={self.unix}",
            f"control={self.control}",
            f"memory={self.sbb.memory - self._own_memory}",
            *([f"store={self.store}", f"store_size={self._room()}"] if self.store else []),
            f"stripe={self.sbb.stripe}",
            *(f"target={target}" for target in self.sbb.targets),
            f"sync={self.sbb.sync}",
            f"drain_rate={self.settings.drain_rate}",
            f"drain_delay={self.settings.drain_delay}",
        ]
        return "".join(line + "\n" for line in lines)

    def _room(self) -> int:
        """Bytes that the file system of its volume has for data: XFS takes some for itself."""
        found = os.statvfs(self.data)
        return found.f_blocks * found.f_frsize * 9 // 10 - _OWN_STORAGE

    def start(
        self,
        key: bytes,
        cores: Sequence[int],
        group: str | None,
        started: Callable[[ProcessId], None],
        patience: float = START_SECONDS,
    ) -> ProcessId:
        """Start it as the owner, never as root; returns when it answers.

        started: called with the process at once, before it answers. Raises EnvironmentFault if it ends, or says
        nothing for `patience` seconds (it may be replaying a log then, and is left to it).
        """
        self.stop(None)
        self.prepare()
        binary = os.open(program("sbbd"), os.O_PATH | os.O_CLOEXEC)
        reader, writer = os.pipe()
        try:
            os.write(writer, key)
            os.close(writer)
            pinned = ["taskset", "--cpu-list", ",".join(map(str, cores))] if cores else []
            arguments = [_for_owner(binary), "--config", str(self.file), "--key-fd", str(reader)]
            with self.log.open("ab") as log:
                child = subprocess.Popen(
                    [*self._as_owner(), *pinned, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
                    pass_fds=(reader, binary),
                    start_new_session=True,
                )
        finally:
            os.close(reader)
            os.close(binary)
        child.returncode = 0  # reaped by pidfd (process.stop): Popen shall neither wait nor warn
        if group is not None:
            confine.enter_group(group, child.pid)
        begun = process.start_of(child.pid)
        server = ProcessId(child.pid, begun if begun is not None else -1)
        started(server)
        self._wait_until_it_answers(server, patience)
        return server

    def stop(self, server: ProcessId | None) -> None:
        """End it, and any other with the same configuration, whatever it holds. No error if none runs."""
        found = process.find(str(self.file), self.spec.uid)
        process.stop_all(found if server is None or server in found else [server, *found], grace=_STOP_SECONDS)

    def complaint(self) -> str:
        """The last line of its log, for a message."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - 4096))
                lines = log.read().decode(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return control.one_line(lines[-1]) if lines else f"see {self.log}"

    def _as_owner(self) -> list[str]:
        uid, gid = self.spec.uid, self.spec.gid
        if uid == 0:
            raise UserError("root's buffers are not served: submit as an ordinary user")
        try:
            groups = os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
        except KeyError:
            raise EnvironmentFault(
                f"this datanode knows no user with uid {uid}: make its users those of the cluster"
            ) from None
        return [
            "setpriv", f"--reuid={uid}", f"--regid={gid}", f"--groups={','.join(map(str, groups))}",
            "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--",
        ]  # fmt: skip

    def _wait_until_it_answers(self, server: ProcessId, patience: float) -> None:
        deadline = time.monotonic() + patience
        while True:
            try:
                control.status(self.control, self.spec.uid, timeout=2)
            except EnvironmentFault as error:
                if not server.alive:
                    raise EnvironmentFault(
                        f"sbbd of {self.spec.name} ended at its start: {self.complaint()}"
                    ) from error
                if time.monotonic() > deadline:
                    raise EnvironmentFault(
                        f"sbbd of {self.spec.name} did not answer within {patience:g} s: {error.text}"
                    ) from error
                time.sleep(0.005)
            else:
                return


def read_text(text: str) -> dict[str, tuple[str, ...]]:
    """What `SbbServer.text` wrote: the values of each key, in their order."""
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        key, _, value = line.partition("=")
        found[key] = (*found.get(key, ()), value)
    return found


def _for_owner(binary: int) -> str:
    """How the owner starts a program that root opened: a checkout may lie where they may not go."""
    path = Path(f"/proc/self/fd/{binary}").readlink()
    reachable = all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents)
    return str(path) if reachable else f"/proc/self/fd/{binary}"


def refuse_memory(sbb: SbbSpec) -> None:
    """Raise UserError for a flavor that leaves no memory for data."""
    if sbb.memory < _LEAST_MEMORY:
        raise UserError(
            f"MemorySize {sbb.memory} of the flavor is too small for a server: {_LEAST_MEMORY} bytes are the least"
        )


def program(name: str) -> str:
    """The path of `sbbd`. Raises EnvironmentFault if it is not installed."""
    found = shutil.which(name, path=":".join(_PLACES))
    if found is None:
        raise EnvironmentFault(f"{name} is not on this datanode (looked in {', '.join(_PLACES)}): install ebb-dnd")
    return found
