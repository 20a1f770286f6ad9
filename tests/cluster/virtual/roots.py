"""Root file systems of virtual nodes, made once of Debian packages and kept as layers in /var/cache/ebb.

A root is three folders that overlayfs lays over one another: the *base* of a Debian suite (mmdebstrap), *needs* (what
a role's node has beside Ebb, and what Ebb's packages declare as dependencies; apt), *ebb* (Ebb's own packages, from
files, with nothing to download). The first two take a minute and change seldom, the last takes
seconds and changes with the sources.

A layer's name says what is in it: role, suite, a digest of the package list, the layers below, and the builder.
Packages come from the mirror that the machine's own apt uses, and apt checks their signatures against Debian's keyring.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError
from cluster.kinds import Report

CACHE = Path("/var/cache/ebb/roots")
SUITES = {"22.05": "bookworm", "24.11": "trixie", "26.05": "sid"}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
LAYER = Path(__file__).with_name("layer")
ROLES = ("controller", "datanode", "compute")

BASE = ("python3", "iproute2", "kmod", "nfs-common", "netbase", "procps", "mount", "util-linux", "passwd")
"""What the node itself needs before there is anything on it: process 1, network, a shared /home."""

NEEDS = {
    "controller": ("slurmctld", "slurm-client", "munge", "nfs-kernel-server", "rsync"),
    "datanode": ("munge",),
    "compute": ("slurmd", "slurm-client", "munge", "rsync"),
}
"""What an administrator installs on a node of each role beside Ebb's package for it."""

PACKAGES = {"controller": ("ebb-controller", "ebb-compute"), "datanode": ("ebb-datanode",), "compute": ("ebb-compute",)}
"""Ebb's own on a node of each role; the controller is the login node too."""

KEPT = 3
"""So many layers of each kind, role and suite stay when newer ones are made; those in use stay too."""

CONFINED = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--pid", "--fork",
            "--kill-child", "--mount-proc", "--"]  # fmt: skip
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
_Make = Callable[[Path, Path], list[str]]


@dataclass(frozen=True)
class Package:
    """A Debian package file of ours: its name, what it depends on (control file's text), its file."""

    name: str
    depends: str
    path: Path


def build(release: str, debs: Path | None, report: Report, roles: Sequence[str] = ROLES) -> dict[str, list[Path]]:
    """The layers of each role's root, the topmost first, made where they are not in the cache.

    release: Slurm's, a key of SUITES. debs: folder with Ebb's packages for that suite; None: nothing of Ebb.
    Raises ClusterError with the end of the log of what failed.
    """
    suite = SUITES[release]
    packages = {p.name: p for p in _packages(debs)} if debs else {}
    CACHE.mkdir(parents=True, exist_ok=True)
    with _locked():
        _clear_unfinished()
        base = _base(suite, report)
        found = {}
        for role in roles:
            ours = _ours(PACKAGES[role], packages) if debs else []
            needs = _needs(suite, role, base, ours, set(packages), report)
            top = [_ebb(suite, role, [needs, base], ours, report)] if ours else []
            found[role] = [*top, needs, base]
            for layer in found[role]:
                os.utime(layer)
    return found


@contextmanager
def _locked() -> Iterator[None]:
    """One builder at a time; the others wait and then find what they need."""
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def use(layers: Sequence[Path]) -> list[int]:
    """Keep layers in the cache as long as the descriptors are open. Called by a cluster's process 1."""
    fds = [os.open(layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for layer in layers]
    for fd in fds:
        fcntl.flock(fd, fcntl.LOCK_SH)
    return fds


def _base(suite: str, report: Report) -> Path:
    def make(new: Path, work: Path) -> list[str]:
        return [
            "mmdebstrap", "--mode=root", "--variant=minbase", "--components=main", f"--include={','.join(BASE)}",
            f"--keyring={KEYRING}", *(f"--aptopt={line}" for line in _apt_options()),
            *(f"--dpkgopt=path-exclude={path}" for path in ("/usr/share/doc/*", "/usr/share/locale/*")),
            suite, str(new), _mirror(),
        ]  # fmt: skip

    return _layer(f"base-{suite}", _digest(suite, *BASE), make, report)


def _needs(suite: str, role: str, base: Path, ours: list[Package], names: set[str], report: Report) -> Path:
    wanted = list(NEEDS[role])
    for package in ours:
        # Ebb's own packages come later, from files; alternatives (a | b) and versions stay as they are written.
        parts = [part.strip() for part in package.depends.split(",")]
        wanted += [part for part in parts if part and re.split(r"[\s(:|]", part)[0] not in names]
    text = ", ".join(dict.fromkeys(wanted))

    def make(new: Path, work: Path) -> list[str]:
        return [str(LAYER), str(new), str(base), str(work), str(work), "satisfy", text]

    return _layer(f"needs-{suite}-{role}", _digest(base.name, text, LAYER.read_text()), make, report)


def _ebb(suite: str, role: str, lowers: list[Path], ours: list[Package], report: Report) -> Path:
    folder = ours[0].path.parent
    content = [hashlib.sha256(package.path.read_bytes()).hexdigest() for package in ours]

    def make(new: Path, work: Path) -> list[str]:
        files = [f"/run/debs/{package.path.name}" for package in ours]
        below = ":".join(map(str, lowers))
        return [str(LAYER), str(new), below, str(work), str(folder), "install", *files]

    return _layer(f"ebb-{suite}-{role}", _digest(*(p.name for p in lowers), *content, LAYER.read_text()), make, report)


def _layer(kind: str, digest: str, make: _Make, report: Report) -> Path:
    """The layer called `kind-digest`; made aside and renamed, so that one that is there is whole."""
    path = CACHE / f"{kind}-{digest}"
    if path.is_dir():
        return path
    report(f"making {path.name}")
    work = CACHE / f".new-{kind}-{digest}"
    work.mkdir()
    (work / "apt.conf").write_text("".join(f"{line}\n" for line in _apt_options()))
    log = CACHE / f"{kind}.log"
    with log.open("w") as output:
        done = subprocess.run(
            [*CONFINED, *make(work / "new", work)], check=False, env=_ENVIRONMENT, cwd="/",
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=1800,
        )  # fmt: skip
    if done.returncode != 0:
        lines = log.read_text(errors="replace").splitlines()[-15:]
        raise ClusterError("\n".join([f"{path.name} could not be made; the end of {log}:", *(f"  {x}" for x in lines)]))
    (work / "new").chmod(0o755)
    (work / "new").rename(path)
    shutil.rmtree(work)
    _drop_old(kind)
    return path


def _drop_old(kind: str) -> None:
    layers = sorted(
        (p for p in CACHE.iterdir() if re.fullmatch(re.escape(kind) + r"-[0-9a-f]{16}", p.name)),
        key=lambda p: p.stat().st_mtime, reverse=True,
    )  # fmt: skip
    for layer in layers[KEPT:]:
        fd = os.open(layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # a cluster runs on it
        finally:
            os.close(fd)
        shutil.rmtree(layer)


def _clear_unfinished() -> None:
    for path in CACHE.glob(".new-*"):
        shutil.rmtree(path)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _packages(folder: Path) -> Iterator[Package]:
    for path in sorted(folder.glob("*.deb")):
        listing = subprocess.run(
            ["dpkg-deb", "--field", str(path), "Package", "Pre-Depends", "Depends"],
            check=True, capture_output=True, text=True, timeout=20, env=_ENVIRONMENT,
        ).stdout  # fmt: skip
        fields = dict(line.split(": ", 1) for line in listing.splitlines() if ": " in line)
        depends = [fields[key] for key in ("Pre-Depends", "Depends") if key in fields]
        yield Package(fields["Package"], ", ".join(depends), path)


def _ours(names: Sequence[str], packages: dict[str, Package]) -> list[Package]:
    """Those packages and the others of ours that they depend on, directly or not."""
    if missing := set(names) - set(packages):
        raise ClusterError(f"no package {', '.join(missing)} was built; there are: {', '.join(packages) or 'none'}")
    found: list[Package] = []
    waiting = list(names)
    while waiting:
        package = packages[waiting.pop()]
        if package not in found:
            found.append(package)
            waiting += [n for n in re.findall(r"[a-z0-9][a-z0-9+.-]+", package.depends) if n in packages]
    return found


def _mirror() -> str:
    """The first mirror of Debian's own archive that the machine's apt knows."""
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"],
        check=True, capture_output=True, text=True, timeout=20, env=_ENVIRONMENT,
    ).stdout  # fmt: skip
    for line in listing.splitlines():
        site, release, component = line.split()
        if component == "main" and release in {*SUITES.values(), "stable", "unstable"}:
            return site
    raise ClusterError("apt on this machine knows no mirror of Debian (main); see sources.list(5)")


def _apt_options() -> list[str]:
    """How this machine's apt reaches its mirror (proxies, time-outs), as lines of apt.conf(5)."""
    dump = subprocess.run(
        ["apt-config", "dump"], check=True, capture_output=True, text=True, timeout=20, env=_ENVIRONMENT
    ).stdout
    wanted = r"Acquire::((http|https|ftp|Retries|ForceIPv4|ForceIPv6|Check-Valid-Until|Check-Date)\b.*) \"[^\"]+\";"
    return [line for line in dump.splitlines() if re.fullmatch(wanted, line)]
