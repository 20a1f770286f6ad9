"""A real dnd for tests: started, killed and asked as the orchestrator does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ebb.model import Status
from ebb.transport import Client
from unit.dnd.nfs4 import Nfs4Client, wait_for

ADDRESS = "127.0.0.11"
JOB_NODE = "127.0.0.21"
OTHER_NODE = "127.0.0.22"
UID = GID = 65534
MIB = 1 << 20
SIZE = 320 * MIB
_SOURCES = Path(__file__).parents[3]
_PORT = 8766


class Datanode:
    """Folders, one daemon, one client. `home` belongs to the user whose buffers the tests make."""

    def __init__(self, folder: Path, munge_socket: str) -> None:
        folder.chmod(0o755)
        self.folder, self.state, self.run = folder, folder / "state", folder / "run"
        self.home = folder / "home"
        self.home.mkdir()
        os.chown(self.home, UID, GID)
        key = folder / "site.key"
        key.write_bytes(b"k" * 32)
        key.chmod(0o600)
        self.config = folder / "ebb.conf"
        self.config.write_text(f"MungeSocket={munge_socket}\nSiteKey={key}\n")
        self.client = Client(ADDRESS, _PORT, munge_socket=munge_socket)
        self.log = folder / "dnd.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **environment: str) -> None:
        """Start the daemon and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "dnd.daemon",
                    "--name",
                    "dn1",
                    "--address",
                    ADDRESS,
                    "--port",
                    str(_PORT),
                    "--config",
                    str(self.config),
                    "--state-dir",
                    str(self.state),
                    "--run-dir",
                    str(self.run),
                ],
                cwd=_SOURCES,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )
        wait_for(self.listens, 15, f"daemon answers; its log: {self.log.read_text()[-2000:]}")

    def listens(self) -> bool:
        """Whether the daemon answers."""
        assert self.process is not None and self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            self.client.call("list", {}, timeout=5)
        except Exception:
            return False
        return True

    def kill(self) -> None:
        """kill -9 the daemon alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop_all(self) -> None:
        """End daemon and services and drop their mounts."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)
        for pid in self.servers():
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not self.servers(), 10, "servers end")
        for mount in reversed(self.mounts()):
            subprocess.run(["umount", "--lazy", mount], check=True)

    def spec(self, sid: str = "42", **changes: Any) -> dict[str, Any]:
        """A service spec of the user."""
        return {
            "sid": sid,
            "bbid": int(sid.split("-")[0]),
            "type": "GBF",
            "name": f"buffer{sid}",
            "user": "nobody",
            "uid": UID,
            "gid": GID,
            "storage_size": SIZE,
            "backend": "file",
            "volume_group": "ebb",
            "path": "/home/nobody/mnt",
            "data_src": None,
            "data_dst": None,
            **changes,
        }

    def sbb_spec(self, sid: str = "42", storage: int = 0, **changes: Any) -> dict[str, Any]:
        """One server of an SBB of the user's, alone or number `index` of `count`; its target is below their home."""
        sbb = {
            "index": 0,
            "count": 1,
            "targets": [str(self.home / "target")],
            "memory": 256 * MIB,
            "cores": 1,
            "sync": "servers",
            "stripe": MIB,
            **changes,
        }
        group = "ebb" if storage else ""
        path = ":".join(sbb["targets"])
        return self.spec(sid, type="SBB", storage_size=storage, volume_group=group, path=path, sbb=sbb)

    def create(self, sid: str = "42", **changes: Any) -> Status:
        """Create and wait until that is settled."""
        self.call("create_persistent", self.spec(sid, **changes))
        return self.settled(sid)

    def destroy(self, sid: str = "42", discard: bool = False) -> Status:
        """Destroy and wait until that is settled."""
        self.call("destroy_persistent", {"sid": sid, "discard": discard})
        return self.settled(sid)

    def call(self, verb: str, body: dict[str, Any]) -> Status:
        """Call a verb that answers a status."""
        return Status.from_wire(self.client.call(verb, body, timeout=60))

    def settled(self, sid: str = "42", seconds: float = 30) -> Status:
        """Wait until dnd does nothing more by itself."""
        deadline = time.monotonic() + seconds
        status = self.call("status", {"sid": sid})
        while not status.phase.settled:
            assert time.monotonic() < deadline, f"still {status.phase}: {self.log.read_text()[-3000:]}"
            status = self.call("status", {"sid": sid, "revision": status.revision, "wait": 5})
        print(f"service {sid} is {status.phase}: {status.error or 'no error'}")  # for whoever reads why a test failed
        return status

    def admit(self, sid: str = "42", job: int = 43) -> Status:
        """Let a job on JOB_NODE in."""
        return self.call("pre_run", {"sid": sid, "job_id": job, "clients": [JOB_NODE]})

    def nfs(self, status: Status, source: str = JOB_NODE, *, privileged: bool = True) -> Nfs4Client:
        """Connect to a buffer as the user from a node: as its kernel does, or as a user's program."""
        assert status.mount is not None
        return Nfs4Client(
            status.mount.address, status.mount.port, source=source, uid=UID, gid=GID, privileged=privileged
        )

    def ganeshas(self) -> list[int]:
        """Ganeshas of this datanode."""
        return self._with_configuration(b"ganesha.conf")

    def sbbds(self) -> list[int]:
        """SBB servers of this datanode."""
        return self._with_configuration(b"sbbd.conf")

    def servers(self) -> list[int]:
        """All of them."""
        return self.ganeshas() + self.sbbds()

    def _with_configuration(self, name: bytes) -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(word.startswith(str(self.run).encode()) and word.endswith(name) for word in words):
                found.append(int(entry.name))
        return found

    def mounts(self) -> list[str]:
        """Mountpoints below this datanode's folders."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return [line.split()[4] for line in lines if line.split()[4].startswith(str(self.folder))]

    def assert_nothing_left(self) -> None:
        """No process, mount, volume or run folder of any service; the journal knows them as gone at the most."""
        assert self.servers() == []
        assert self.mounts() == []
        assert [str(path) for path in (self.state / "volumes").glob("*/*")] == []
        phases = [json.loads(path.read_text())["phase"] for path in (self.state / "services").iterdir()]
        assert set(phases) <= {"gone"}, phases
        assert [*(self.run / "ganesha").glob("*"), *(self.run / "sbb").glob("*")] == []
        loops = subprocess.run(
            ["losetup", "--list", "--noheadings", "--output", "BACK-FILE"], capture_output=True, text=True, check=True
        ).stdout
        assert str(self.folder) not in loops
