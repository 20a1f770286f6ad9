"""Build roots: a Debian of a suite in a folder, made once, entered read-only and without a network."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from debs.errors import BuildError

CACHE = Path("/var/cache/ebb/build-roots")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MAX_AGE = 7 * 86400
"""Seconds after which a root is made anew: suites move, sid every day."""

_IDENTITY = "build/identity"
# What of this machine's apt configuration a root's apt needs too. Nothing about signatures.
_APT_SETTINGS = ("Acquire::http", "Acquire::Retries", "Acquire::Check-Valid-Until", "Acquire::Check-Date")
_ENTER = """
set -e
mount --make-rprivate /
mount --bind "$ROOT" "$ROOT"
mount -t proc proc "$ROOT/proc"
mount -t tmpfs tmpfs "$ROOT/tmp"
mount --bind "$SOURCE" "$ROOT/build/source"
mount --bind "$OUTPUT" "$ROOT/build/output"
mount -o remount,bind,ro "$ROOT/build/source"
mount -o remount,bind,ro "$ROOT"
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \
    SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" chroot "$ROOT" sh -c 'cd /build/source && exec "$@"' sh "$@"
"""


@dataclass(frozen=True, slots=True)
class BuildRoot:
    """A root folder that is ready. identity: a digest of what is installed in it."""

    suite: str
    path: Path
    identity: str

    def run(self, command: Sequence[str], *, source: Path, output: Path, epoch: int = 0) -> str:
        """Run a command in it and return its standard output; standard error passes through.

        It starts in `source`, at /build/source, and can write to `output` alone, at /build/output.
        Raises BuildError if it fails.
        """
        argv = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--net",
            "--ipc",
            "sh",
            "-c",
            _ENTER,
            "sh",
            *command,
        ]
        variables = {"ROOT": self.path, "SOURCE": source, "OUTPUT": output, "SOURCE_DATE_EPOCH": epoch}
        environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
        done = subprocess.run(argv, check=False, env=environment, stdout=subprocess.PIPE, text=True, timeout=1800)
        if done.returncode:
            shown = shlex.join(command).splitlines()[0][:200]
            raise BuildError(f"in the build root of {self.suite}: `{shown}` ended with {done.returncode}")
        return done.stdout

    def version(self, package: str) -> str:
        """The version of an installed package; '' if it is not installed."""
        admin = f"--admindir={self.path}/var/lib/dpkg"
        argv = ["dpkg-query", admin, "-W", "-f", "${db:Status-Status} ${Version}", package]
        status, _, version = subprocess.run(argv, check=False, capture_output=True, text=True).stdout.partition(" ")
        return version if status == "installed" else ""


def build_root(suite: str, packages: Sequence[str], *, fresh: bool = False) -> BuildRoot:
    """The root of a suite with these packages; made if there is none that is young enough.

    Raises BuildError if mmdebstrap fails: its last lines are on standard error.
    """
    wanted = sorted(set(packages))
    name = f"{suite}-{hashlib.sha256(' '.join(wanted).encode()).hexdigest()[:12]}"
    path = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with _locked(CACHE / f".{name}.lock"):
        if fresh or not _is_young(path):
            _make(suite, wanted, path)
        return BuildRoot(suite, path, (path / _IDENTITY).read_text().strip())


def mirror_of_this_machine() -> str:
    """The address from which this machine's own apt gets Debian. Raises BuildError if it has none."""
    argv = ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    names = {codename(), "stable", "oldstable"}
    for line in lines:
        release, _, address = line.partition(" ")
        if release in names:
            return address
    raise BuildError(f"no source for {codename()} in this machine's apt configuration (/etc/apt/sources.list.d)")


def codename() -> str:
    """This machine's Debian release."""
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    return "sid"


def apt_settings() -> list[str]:
    """This machine's proxies, retries and date checks, as lines of apt.conf."""
    lines = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if line.startswith(_APT_SETTINGS) and not line.endswith(' "";')]


def _make(suite: str, packages: Sequence[str], path: Path) -> None:
    print(f"packaging: making the build root of {suite} in {path}", file=sys.stderr, flush=True)
    aside = path.with_name(f".{path.name}.new")
    for old in [aside, *(each for each in CACHE.glob(f"{suite}-*") if each != path and not _is_young(each))]:
        _remove(old)
    mirror = mirror_of_this_machine()
    argv = ["mmdebstrap", "--quiet", "--variant=minbase", f"--keyring={KEYRING}", f"--include={','.join(packages)}"]
    argv += [f"--aptopt={line}" for line in apt_settings()]
    argv += [suite, str(aside), f"deb [signed-by={KEYRING}] {mirror} {suite} main"]
    try:
        subprocess.run(argv, check=True, stdout=sys.stderr, timeout=1200)
    except FileNotFoundError:
        raise BuildError("mmdebstrap is not installed: run `make setup`") from None
    except subprocess.CalledProcessError as error:
        raise BuildError(f"mmdebstrap made no build root of {suite} (exit code {error.returncode})") from None
    for folder in ("build/source", "build/output"):
        (aside / folder).mkdir(parents=True)
    identity = hashlib.sha256((aside / "var/lib/dpkg/status").read_bytes()).hexdigest()
    (aside / _IDENTITY).write_text(identity + "\n")
    _remove(path)
    aside.rename(path)


def _is_young(path: Path) -> bool:
    try:
        return time.time() - (path / _IDENTITY).stat().st_mtime < MAX_AGE
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    if not path.exists():
        return
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    if below := [each for each in mounted if each.startswith(f"{path}/")]:
        raise BuildError(f"{path} is to be removed, but {below[0]} is mounted there: unmount it")
    shutil.rmtree(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
