"""Fills a new state directory: a copy of /etc of the cluster's own, homes, places for volumes and logs."""

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from cluster import config
from cluster.layout import CHECKOUT, USERS, State

LUA = CHECKOUT / "slurm_bb_lua"
PLUGIN = "/opt/ebb/build/spank_ebb.so"  # where users can read it too: srun loads it as they
CLIENT = "/opt/ebb/build/sbb-client"
WRAPPER = """#!/bin/sh
PYTHONPATH=/opt/ebb exec /opt/ebb/.venv/bin/python -P -m {module} "$@"
"""
COMMANDS = {"ebb": "ebb.cli", "pshcservcheck": "healthchecker"}


def prepare(state: State) -> None:
    """Make everything that must be there before process 1 starts. The directory is the caller's, new and 0700.

    Raises OSError, subprocess.CalledProcessError.
    """
    for name, mode in (("etc", 0o755), ("home", 0o755), ("root", 0o700), ("tmp", 0o1777), ("lib", 0o755),
                       ("log", 0o755), ("bin", 0o755)):  # fmt: skip
        folder = state.path / name
        folder.mkdir()
        folder.chmod(mode)
    subprocess.run(["cp", "-a", "/etc/.", str(state.path / "etc")], check=True, timeout=60)
    _users(state.path)
    _services(state)
    for name, module in COMMANDS.items():
        wrapper = state.path / "bin" / name
        wrapper.write_text(WRAPPER.format(module=module))
        wrapper.chmod(0o755)


def _users(root: Path) -> None:
    etc = root / "etc"
    for name, edit in (("passwd", config.with_users), ("group", config.with_groups)):
        path = etc / name
        path.write_text(edit(path.read_text()))
    for user in USERS:
        home = root / "home" / user.name
        home.mkdir(mode=0o750)
        os.chown(home, user.uid, user.uid)
    (root / "lib/nfs/ganesha").mkdir(parents=True)
    (root / "lib/ebb").mkdir()
    munge = pwd.getpwnam("munge")
    (root / "lib/munge").mkdir(mode=0o711)
    os.chown(root / "lib/munge", munge.pw_uid, munge.pw_gid)


def _services(state: State) -> None:
    etc, layout = state.path / "etc", state.layout
    for name in ("slurm", "munge", "ebb"):
        shutil.rmtree(etc / name, ignore_errors=True)
        (etc / name).mkdir()
    _secret(etc / "munge/munge.key", "munge")
    os.chown(etc / "munge", pwd.getpwnam("munge").pw_uid, -1)
    (etc / "munge").chmod(0o700)
    _secret(etc / "ebb/site.key", "root")
    for name, text in (
        ("hosts", config.hosts(layout)),
        ("hostname", "controller\n"),
        ("slurm/slurm.conf", config.slurm_conf(layout)),
        ("slurm/plugstack.conf", "" if layout.plain else config.plugstack_conf(PLUGIN, CLIENT)),
        ("ebb/ebb.conf", config.ebb_conf()),
        ("ebb/datanodes.conf", config.datanodes_conf(layout)),
    ):
        (etc / name).write_text(text)
    resolver = etc / "resolv.conf"  # often a link to a place that the cluster does not see; and there is nobody to ask
    resolver.unlink(missing_ok=True)
    resolver.write_text("")
    if not layout.plain:
        shutil.copytree(LUA, etc / "slurm", dirs_exist_ok=True)


def _secret(path: Path, owner: str) -> None:
    path.touch(mode=0o600)
    path.write_bytes(os.urandom(128 if owner == "munge" else 32))
    who = pwd.getpwnam(owner)
    os.chown(path, who.pw_uid, who.pw_gid)
