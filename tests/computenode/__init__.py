"""A compute node for the plugin: a mount namespace with homes, buffer data and a site key of its own, and the C host.

Nothing of it is seen outside, and all of it is gone when its one process is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ebb.ticket import SbbMount, SiteKey, Ticket, TicketMount, sign
from spank import _cffi_build

CHECKOUT = Path(__file__).resolve().parents[2]
ALICE, BOB = 2001, 2002
RUN = "/srv/run/ebb"
# Reads of freed memory and the like end the host at once; Python itself leaks on purpose.
_SANITIZER = {"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
# Answers nobody, not even the kernel that asks for its version.
_SILENT = """
import ctypes, os, sys, time
fuse = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fuse},rootmode=40000,user_id=2001,group_id=2001{sys.argv[2]}"
if ctypes.CDLL(None, use_errno=True).mount(b"silent", os.fsencode(sys.argv[1]), b"fuse", 6, options.encode()) != 0:
    sys.exit(os.strerror(ctypes.get_errno()))
print("mounted", flush=True)
time.sleep(600)
"""


class Built:
    """The plugin, the host, and the folder of Python code that the plugin imports."""

    def __init__(self, folder: Path, *, sanitize: bool) -> None:
        self.library = folder / "lib"
        self.library.mkdir()
        for package in ("ebb", "spank"):
            shutil.copytree(CHECKOUT / package, self.library / package, ignore=shutil.ignore_patterns("__pycache__"))
        self.plugin = _cffi_build.build(
            folder, python=Path(sys.executable), python_path=[str(self.library)], sanitize=sanitize
        )
        self.host = folder / "host"
        checks = ["-fsanitize=address,undefined"] if sanitize else []
        libpython = sysconfig.get_config_var("INSTSONAME")
        subprocess.run(
            [
                "gcc",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-g",
                "-rdynamic",
                *checks,
                f'-DLIBPYTHON="{libpython}"',
                "-o",
                str(self.host),
                str(CHECKOUT / "tests/spank/host.c"),
                "-ldl",
            ],
            check=True,
            timeout=60,
        )


class Result:
    """What a run of the host printed: `lines` by their first word, `err`, and its exit code."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    def all(self, action: str) -> list[str]:
        """What was printed for an action, in order."""
        return [line.split(" ", 1)[1] for line in self.out.splitlines() if line.startswith(action + " ")]

    def one(self, action: str) -> str:
        """The only such line."""
        (only,) = self.all(action)
        return only


class Node:
    """One compute node. Paths as /home/alice and /srv/data are the node's own."""

    def __init__(self, built: Built, name: str = "cn1") -> None:
        self.built, self.name = built, name
        self.key = SiteKey(os.urandom(32))
        self._keeper = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sleep", "infinity"], stdout=subprocess.DEVNULL
        )
        self._await_namespace()
        for folder in ("/home", "/srv", "/mnt"):
            self.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", folder])
        for owner, home in ((ALICE, "/home/alice"), (BOB, "/home/bob")):
            self.run(["install", "-d", "-m", "0750", "-o", str(owner), "-g", str(owner), home])
        self.run(["mkdir", "-p", "/srv/run", "/srv/etc"])
        self.write("/srv/etc/site.key", self.key.secret, 0o600)
        self.configure("Orchestrator=127.0.0.1:9")  # nobody is there

    def _await_namespace(self) -> None:
        mine, deadline = os.readlink("/proc/self/ns/mnt"), time.monotonic() + 10
        path = f"/proc/{self._keeper.pid}"
        while os.readlink(f"{path}/ns/mnt") == mine or Path(f"{path}/comm").read_text() != "sleep\n":
            if time.monotonic() > deadline:
                raise AssertionError("the node's mount namespace was not made")
            time.sleep(0.002)

    def end(self) -> None:
        """Let the kernel take the node away."""
        self._keeper.kill()
        self._keeper.wait(timeout=10)

    # -- its files

    def path(self, path: str) -> Path:
        """A path of the node, from outside."""
        return Path(f"/proc/{self._keeper.pid}/root{path}")

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Make a file of root's."""
        target = self.path(path)
        target.write_bytes(data)
        target.chmod(mode)

    def configure(self, *lines: str) -> None:
        """Write ebb.conf."""
        self.write("/srv/etc/ebb.conf", "\n".join(["SiteKey=/srv/etc/site.key", *lines, ""]).encode())

    def data(self, name: str, *, owner: int = ALICE) -> str:
        """Make the data folder of a buffer as a datanode on this node has it, with a file `whose` that names it."""
        folder = f"/srv/data/{name}"
        self.run(["install", "-d", "-m", "0700", "-o", str(owner), "-g", str(owner), folder])
        self.write(f"{folder}/whose", f"{name}\n".encode())
        return folder

    def pins(self) -> list[str]:
        """What lies in the folder of pins."""
        folder = self.path(f"{RUN}/ns")
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []

    def mounted(self, of: str = "self") -> str:
        """The mount table of the node, or of one of its processes."""
        if of == "self":
            of = str(self._keeper.pid)
        return Path(f"/proc/{of}/mountinfo").read_text()

    # -- its processes

    def run(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command on the node as root; it must succeed."""
        return subprocess.run(
            ["nsenter", f"--mount=/proc/{self._keeper.pid}/ns/mnt", *argv],
            check=True,
            timeout=60,
            capture_output=True,
            text=True,
        )

    def background(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a command on the node as root; the caller ends it."""
        return subprocess.Popen(
            ["nsenter", f"--mount=/proc/{self._keeper.pid}/ns/mnt", *argv], stdout=subprocess.DEVNULL
        )

    @contextlib.contextmanager
    def silent(self, path: str, *, others: bool = False) -> Iterator[None]:
        """Mount a FUSE file system of alice's there, which never answers. others: they may ask it, root too."""
        server = subprocess.Popen(
            [
                "nsenter",
                f"--mount=/proc/{self._keeper.pid}/ns/mnt",
                sys.executable,
                "-c",
                _SILENT,
                path,
                ",allow_other" if others else "",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "mounted\n"
            yield
        finally:
            server.kill()  # the kernel then answers all who wait
            server.communicate(timeout=10)

    def host(
        self,
        *actions: str,
        job: int = 1,
        uid: int = ALICE,
        ticket: str | None = None,
        tasks: int = 1,
        step: int = 0,
        context: str = "remote",
        environment: dict[str, str] | None = None,
        variables: dict[str, str] | None = None,
        directory: str = "/home/alice",
        arguments: Sequence[str] = (),
    ) -> Result:
        """Run the C host. variables: of the step; environment: of the host process; arguments: of plugstack.conf."""
        step_variables = dict(variables or {})
        if ticket is not None:
            step_variables["SLURM_EBB_TICKET"] = ticket
        words = [
            f"job={job}",
            f"uid={uid}",
            f"gid={uid}",
            f"groups={uid},100",
            f"tasks={tasks}",
            f"step={step}",
            f"context={context}",
            f"node={self.name}",
            f"arg=run={RUN}",
            "arg=config=/srv/etc/ebb.conf",
            *(f"arg={a}" for a in arguments),
            *(f"env={k}={v}" for k, v in step_variables.items()),
        ]
        done = subprocess.run(
            [
                "nsenter",
                f"--mount=/proc/{self._keeper.pid}/ns/mnt",
                f"--wd={self.path(directory)}",
                str(self.built.host),
                str(self.built.plugin),
                *words,
                "--",
                *actions,
            ],
            check=False,
            timeout=120,
            capture_output=True,
            text=True,
            env={"PATH": "/usr/bin:/bin", **_SANITIZER, **(environment or {})},
        )
        return Result(done)

    def step(self, command: str, **how: object) -> Result:
        """A whole step as slurmstepd runs it."""
        return self.host("init", "init_post_opt", "user_init", f"tasks:{command}", "exit", **how)  # type: ignore[arg-type]

    def ticket(
        self,
        *mounts: TicketMount | SbbMount,
        job: int = 1,
        uid: int = ALICE,
        expires: int = 3600,
        key: SiteKey | None = None,
    ) -> str:
        """A signed ticket."""
        return sign(Ticket(job, uid, uid, int(time.time()) + expires, mounts), key or self.key)

    def buffer(self, name: str, path: str, **more: str) -> TicketMount:
        """A ticket's mount of a buffer whose datanode is this node."""
        data = more.get("data") or self.data(name)
        return TicketMount(
            sid="1",
            name=name,
            type="GBF",
            path=path,
            address=more.get("address", "127.0.0.1"),
            port=20490,
            export="/ganesha_1",
            data=data,
        )
