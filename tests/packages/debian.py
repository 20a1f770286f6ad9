"""The packages as people build them, and a throw-away Debian to install them in."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from debs import root

ROOT = Path(__file__).resolve().parents[2]
_ENTER = """
set -e
mount --make-rprivate /
mount -t proc proc "$0/proc"
mount -t tmpfs tmpfs "$0/run"
exec chroot "$0" "$@"
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """A Debian in a folder, without services: like a node before its first boot."""

    path: Path

    def run(self, *argv: str, check: bool = True, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command in it, as root, in namespaces of its own: whatever it starts or mounts ends with it."""
        entered = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _ENTER, str(self.path), *argv]
        environment = {
            **{name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")},
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "HOME": "/root",
            "DEBIAN_FRONTEND": "noninteractive",
        }
        done = subprocess.run(entered, env=environment, input=text, capture_output=True, text=True, timeout=600)
        if check:
            assert done.returncode == 0, f"{argv}: {done.stdout}\n{done.stderr}"
        return done

    def apt(self, *words: str) -> str:
        """apt-get without questions; what it said."""
        done = self.run("apt-get", "-y", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0", *words)
        return done.stdout + done.stderr

    def paths(self) -> set[str]:
        """Everything that lies in it, but for what dpkg, apt and debconf note about packages."""
        notes = ("/var/lib/dpkg/", "/var/lib/apt/", "/var/cache/", "/var/log/", "/proc/", "/run/", "/dev/", "/tmp/")  # noqa: S108
        found = {f"/{path.relative_to(self.path)}" for path in self.path.rglob("*")}
        return {path for path in found if not path.startswith(notes) and "/.#" not in path}


def build(suite: str, output: Path) -> list[Path]:
    """packaging/build as people run it."""
    argv = [str(ROOT / "packaging/build"), "--suite", suite, "--output", str(output)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True, timeout=1200)
    return [Path(line) for line in done.stdout.splitlines()]


def bootstrap(suite: str, folder: Path) -> None:
    """Make a minimal Debian in an empty folder, from this machine's mirror, with apt that works and no services."""
    source = f"deb [signed-by={root.KEYRING}] {root.mirror_of_this_machine()} {suite} main"
    argv = ["mmdebstrap", "--quiet", "--variant=apt", f"--keyring={root.KEYRING}", "--include=debian-archive-keyring"]
    argv += [f"--aptopt={line}" for line in root.apt_settings()]
    subprocess.run([*argv, suite, str(folder), source], check=True, timeout=600)
    folder.chmod(0o755)
    shutil.copy("/etc/resolv.conf", folder / "etc/resolv.conf")
    (folder / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (folder / "usr/sbin/policy-rc.d").chmod(0o755)
