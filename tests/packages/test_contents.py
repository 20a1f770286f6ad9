"""What is in the packages."""

from __future__ import annotations

import gzip
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from packages.debian import ROOT, build

NAMES = ["ebb-common", "ebb-controller", "ebb-datanode", "ebb-compute"]
EXPECTED = {
    "ebb-common": [
        "usr/bin/ebb",
        "usr/lib/ebb/python/ebb/config.py",
        "usr/share/doc/ebb-common/examples/ebb.conf",
        "usr/share/doc/ebb-common/admin.md",
        "usr/share/man/man1/ebb.1.gz",
        "usr/share/man/man5/ebb.conf.5.gz",
        "usr/share/man/man7/ebb-directives.7.gz",
    ],
    "ebb-controller": [
        "etc/slurm/burst_buffer.lua",
        "etc/slurm/burst_buffer.conf",
        "usr/sbin/ebb-orchestrator",
        "usr/lib/ebb/python/orchestrator/server.py",
        "usr/lib/systemd/system/ebb-orchestrator.service",
        "usr/share/ebb/lua/burst_buffer.lua",
        "usr/share/ebb/lua/ebb/grammar.lua",
        "usr/share/doc/ebb-controller/examples/datanodes.conf",
        "usr/share/man/man5/datanodes.conf.5.gz",
        "usr/share/man/man8/ebb-orchestrator.8.gz",
    ],
    "ebb-datanode": [
        "etc/cron.d/ebb-datanode",
        "etc/default/ebb-dnd",
        "etc/logrotate.d/ebb-datanode",
        "usr/sbin/ebb-dnd",
        "usr/lib/ebb/python/dnd/daemon.py",
        "usr/lib/systemd/system/ebb-dnd.service",
        "usr/share/man/man8/ebb-dnd.8.gz",
    ],
    "ebb-compute": [
        "etc/slurm/plugstack.conf.d/ebb.conf",
        "usr/lib/ebb/spank_ebb.so",
        "usr/lib/ebb/spank_ebb_python.so",
        "usr/lib/ebb/python/spank/plan.py",
    ],
}


def listing(package: Path) -> dict[str, tuple[str, str]]:
    """Path -> (mode, owner) of every entry."""
    text = subprocess.run(["dpkg-deb", "--contents", package], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=5) for line in text.splitlines()]
    return {row[5].removeprefix("./"): (row[0], row[1]) for row in rows}


def control(package: Path, name: str) -> str:
    """One control file; '' if there is none."""
    return subprocess.run(["dpkg-deb", "--info", package, name], capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_package_holds_what_its_node_needs(packages: dict[str, Path], name: str) -> None:
    entries = listing(packages[name])
    assert [path for path in EXPECTED[name] if path not in entries] == []
    assert {owner for _, owner in entries.values()} == {"root/root"}
    assert not [path for path in entries if "__pycache__" in path or path.endswith((".c", ".h", "_cffi_build.py"))]
    for path, (mode, _) in entries.items():
        folder = path.endswith("/") or not path  # the last is the root itself
        program = path.startswith(("usr/bin/", "usr/sbin/", "usr/libexec/")) and not folder
        assert mode == ("drwxr-xr-x" if folder else "-rwxr-xr-x" if program else "-rw-r--r--"), path


def test_there_are_these_packages_and_no_file_is_in_two(packages: dict[str, Path]) -> None:
    assert sorted(packages) == sorted(NAMES)
    files = [path for package in packages.values() for path in listing(package) if path and not path.endswith("/")]
    assert len(files) == len(set(files))


@pytest.mark.parametrize("name", NAMES)
def test_configuration_is_marked_and_every_file_has_its_sum(packages: dict[str, Path], name: str) -> None:
    files = [path for path in listing(packages[name]) if path and not path.endswith("/")]
    assert control(packages[name], "conffiles").split() == [f"/{path}" for path in files if path.startswith("etc/")]
    assert [line.split("  ")[1] for line in control(packages[name], "md5sums").splitlines()] == sorted(
        files, key=lambda path: path.split("/")
    )


def test_the_version_is_the_projects_with_the_release_behind_it(packages: dict[str, Path], suite: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    tag = {"bookworm": "deb12", "trixie": "deb13", "sid": "sid"}[suite]
    for package in packages.values():
        assert control(package, "control").splitlines()[2] == f"Version: {version}~{tag}"


def test_the_plugin_is_tied_to_one_slurm_and_one_python(packages: dict[str, Path]) -> None:
    depends = re.search("^Depends: (.*)$", control(packages["ebb-compute"], "control"), re.MULTILINE)
    assert depends
    for package in ("slurm-wlm-basic-plugins", "python3"):
        bounds = re.findall(rf"(?:^|, ){package} \((>=|<<) [0-9.]+~\)", depends[1])
        assert bounds == [">=", "<<"], depends[1]


def test_burst_buffer_conf_is_the_one_for_the_releases_slurm(packages: dict[str, Path], suite: str) -> None:
    text = subprocess.run(
        [
            "sh",
            "-c",
            'dpkg-deb --fsys-tarfile "$1" | tar -xO ./etc/slurm/burst_buffer.conf',
            "sh",
            packages["ebb-controller"],
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert ("PollInterval=" in text) == (suite != "bookworm")  # fatal to a slurmctld before 24.05


def test_every_command_has_a_manual_page_and_every_page_is_in_a_package(packages: dict[str, Path]) -> None:
    entries = {path for package in packages.values() for path in listing(package)}
    commands = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for command in commands:
        pages = {f"usr/share/man/man{n}/{command}.{n}.gz" for n in (1, 8)}
        assert entries & pages, f"{command} has no manual page"
    for page in (ROOT / "packaging/man").iterdir():
        assert f"usr/share/man/man{page.suffix[1:]}/{page.name}.gz" in entries, f"{page.name} is in no package"


def test_built_again_every_package_is_the_same_to_the_byte(
    packages: dict[str, Path], suite: str, tmp_path: Path
) -> None:
    for path in build(suite, tmp_path):
        assert path.read_bytes() == packages[path.name.partition("_")[0]].read_bytes(), path.name


def test_nothing_is_built_twice(packages: dict[str, Path], suite: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in packages.values()}
    assert build(suite, packages["ebb-common"].parent) == list(packages.values())
    assert {path: path.stat().st_mtime_ns for path in packages.values()} == before


def test_the_changelog_names_version_and_suite(packages: dict[str, Path], suite: str) -> None:
    name = "./usr/share/doc/ebb-common/changelog.gz"
    packed = subprocess.run(
        ["sh", "-c", 'dpkg-deb --fsys-tarfile "$1" | tar -xO "$2"', "sh", packages["ebb-common"], name],
        capture_output=True,
        check=True,
    ).stdout
    assert re.match(rf"ebb \([^)]+\) {suite}; urgency=", gzip.decompress(packed).decode())
