"""Fills a virtual cluster's state directory: for each node its disks, and a layer with its configuration."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from cluster import config
from cluster.layout import USERS, State
from cluster.virtual import texts
from cluster.virtual.machines import Machine, machines

NODE_FILES = Path(__file__).with_name("node")
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


def prepare(state: State) -> None:
    """Make everything that must be there before process 1 starts.

    Raises OSError, subprocess.CalledProcessError.
    """
    secret = os.urandom(16).hex()
    (state.path / "secret").touch(mode=0o600)
    (state.path / "secret").write_text(secret + "\n")
    keys = {"munge": os.urandom(128), "site": os.urandom(32)}
    (state.path / "log").mkdir()
    (state.path / "nodes").mkdir()
    for machine in machines(state.layout):
        _Node(state, machine, secret, keys).make()


class _Node:
    """Makes one node's folder: `config`, the topmost layer of its root, and `disk-*`."""

    def __init__(self, state: State, machine: Machine, secret: str, keys: dict[str, bytes]) -> None:
        self.state, self.machine, self.secret, self.keys = state, machine, secret, keys
        self.folder = state.path / "nodes" / machine.name
        self.layer = self.folder / "config"
        self.below = [Path(layer) for layer in state.roots[machine.role]]

    def make(self) -> None:
        """All of it."""
        self.layer.mkdir(parents=True)
        self._disks()
        self._users()
        self._harness()
        self._etc()

    def _disks(self) -> None:
        for disk in self.machine.disks:
            path = self.folder / f"disk-{disk.name}"
            with path.open("wb") as file:
                file.truncate(disk.size)
            if disk.name in ("system", "home"):
                options = [] if disk.name == "system" else ["-d", str(self._homes())]
                quick = ["-m", "0", "-E", "lazy_itable_init=1,nodiscard"]
                subprocess.run(
                    ["mke2fs", "-q", "-F", "-t", "ext4", *quick, *options, str(path)],
                    check=True, env=_ENVIRONMENT, timeout=60,
                )  # fmt: skip

    def _homes(self) -> Path:
        folder = self.folder / "homes"
        folder.mkdir()
        for user in USERS:
            home = folder / user.name
            home.mkdir(mode=0o750)
            os.chown(home, user.uid, user.uid)
        return folder

    def _below(self, path: str) -> str:
        """A file as the layers below have it."""
        return next(layer / path for layer in self.below if (layer / path).exists()).read_text()

    def _users(self) -> None:
        self._write("etc/passwd", config.with_users(self._below("etc/passwd")))
        added = "".join(f"{user.name}:*:19000:0:99999:7:::\n" for user in USERS)
        self._write("etc/shadow", self._below("etc/shadow") + added, 0o640)  # su asks it, for sbatch --export=NONE
        self._write("etc/group", config.with_groups(self._below("etc/group")))

    def _uid(self, name: str) -> tuple[int, int]:
        found = re.search(rf"^{name}:[^:]*:(\d+):(\d+):", self._below("etc/passwd"), re.MULTILINE)
        return (int(found[1]), int(found[2])) if found else (0, 0)

    def _write(self, name: str, content: str | bytes, mode: int = 0o644, owner: str = "root") -> None:
        path = self.layer / name
        for parent in reversed(path.relative_to(self.layer).parents):
            self._folder(str(parent))
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        os.chown(path, *self._uid(owner))

    def _folder(self, name: str) -> None:
        """A folder hides owner and mode of the same folder below it: it takes them over."""
        path = self.layer / name
        if path.is_dir() and name != ".":
            return
        path.mkdir(exist_ok=True)
        like = next((layer / name for layer in self.below if (layer / name).is_dir()), None)
        status = like.stat() if like else None
        path.chmod(status.st_mode & 0o7777 if status else 0o755)
        if status:
            os.chown(path, status.st_uid, status.st_gid)

    def _harness(self) -> None:
        """What makes a folder of Debian packages a node: see `node/`."""
        shutil.copytree(NODE_FILES, self.layer / "ebb-node", ignore=shutil.ignore_patterns("__pycache__"))
        self._write("ebb-node/settings.json", texts.settings(self.machine))
        self._write("ebb-node/secret", self.secret + "\n", 0o600)

    def _etc(self) -> None:
        layout, role, release = self.state.layout, self.machine.role, self.state.release
        self._write("etc/hostname", f"{self.machine.name}\n")
        self._write("etc/hosts", texts.hosts(layout))
        self._write("etc/resolv.conf", "")
        self._write("etc/munge/munge.key", self.keys["munge"], 0o400, "munge")
        if role == "controller":
            self._write("etc/exports", texts.exports())
        if role != "datanode":
            self._write("etc/slurm/slurm.conf", texts.slurm_conf(layout))
            self._write("etc/slurm/cgroup.conf", texts.cgroup_conf(release))
        if not layout.plain:
            self._write("etc/ebb/ebb.conf", texts.ebb_conf(layout))
            self._write("etc/ebb/site.key", self.keys["site"], 0o600)
            if role != "datanode":
                self._write("etc/slurm/plugstack.conf", "include /etc/slurm/plugstack.conf.d/*.conf\n")
        if not layout.plain and role == "datanode":
            self._write("etc/default/ebb-dnd", texts.dnd_options(self.machine))
        if not layout.plain and role == "controller":
            self._write("etc/ebb/datanodes.conf", texts.datanodes_conf(layout))
