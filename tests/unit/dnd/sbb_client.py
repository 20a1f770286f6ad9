"""A target of an SBB mounted as the SPANK plugin does it, in a mount namespace that the datanode does not see.

(A server whose target led into its own buffer would wait for itself.)
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from cluster import kernel
from ebb.sbb import job_token
from ebb.ticket import SbbMount, SbbServer, SiteKey, Ticket
from spank.plan import Address, client_config

PROGRAM = Path(__file__).parents[3] / "build" / "sbb-client"
_JOB = 77


class SbbClient:
    """The real client over `target`, as the user, in a namespace of a job's. `end` lets go of it."""

    def __init__(self, target: Path, key: SiteKey, sid: str, servers: Sequence[SbbServer], uid: int) -> None:
        self.target, self._uid = target, uid
        self._job = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep infinity"],
            stdout=subprocess.PIPE,
        )
        assert self._job.stdout is not None
        self._job.stdout.readline()
        expires = int(time.time()) + 3600
        mount = SbbMount(sid, "buffer", "SBB", str(target), 0, "servers", 1 << 20, tuple(servers))
        ticket = Ticket(_JOB, uid, uid, expires, (mount,))
        config = client_config(mount, ticket, str(target), lambda name: Address(name, local=True))
        fds = {
            "config": _memory(config.encode()),
            "key": _memory(job_token(key, sid, _JOB, expires)),
            "fuse": os.open("/dev/fuse", os.O_RDWR),
            "target": os.open(target, os.O_PATH | os.O_DIRECTORY),
        }
        self._mount(fds["fuse"])
        binary = os.open(PROGRAM, os.O_PATH)
        arguments = [word for name, fd in fds.items() for word in (f"--{name}-fd", str(fd))]
        self.process = subprocess.Popen(
            [f"/proc/self/fd/{binary}", *arguments],
            pass_fds=(*fds.values(), binary),
            user=uid,
            group=uid,
            extra_groups=[],
        )
        for fd in (*fds.values(), binary):
            os.close(fd)

    def run(self, *argv: str, data: bytes = b"") -> bytes:
        """A command of the job's, as the user; what it printed. It must succeed within a minute."""
        ids = [f"--reuid={self._uid}", f"--regid={self._uid}", "--clear-groups"]
        enter = ["nsenter", f"--mount=/proc/{self._job.pid}/ns/mnt", "setpriv", *ids, "--"]
        return subprocess.run([*enter, *argv], input=data, stdout=subprocess.PIPE, check=True, timeout=60).stdout

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the target."""
        self.run("dd", f"of={self.target / name}", "bs=1M", "status=none", data=data)

    def read(self, name: str) -> bytes:
        """Read one."""
        return self.run("cat", str(self.target / name))

    def end(self) -> None:
        """The job is over: the kernel takes the mount down, and the client ends by itself."""
        self._job.kill()
        self._job.wait(10)
        assert self.process.wait(30) == 0

    def kill(self) -> None:
        """All of it, at once."""
        for process in (self.process, self._job):
            process.kill()
            process.wait(10)

    def _mount(self, fuse: int) -> None:
        options = f"fd={fuse},rootmode=40000,user_id={self._uid},group_id={self._uid},default_permissions,allow_other"
        space = os.open(f"/proc/{self._job.pid}/ns/mnt", os.O_RDONLY)
        child = os.fork()
        if child == 0:
            try:
                kernel.setns(space)
                flags = kernel.MS_NOSUID | kernel.MS_NODEV
                kernel.mount("sbb", str(self.target), "fuse.sbb", flags, options)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        os.close(space)


def _memory(data: bytes) -> int:
    fd = os.memfd_create("sbb")
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
