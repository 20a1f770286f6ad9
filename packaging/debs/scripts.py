"""Maintainer scripts: what each package needs, then its own part from packaging/scripts."""

from __future__ import annotations

from debs.python_parts import FOLDER
from debs.recipe import ROOT, Package

NAMES = ("preinst", "postinst", "prerm", "postrm")


def script(package: Package, name: str) -> str | None:
    """The text of one maintainer script; None if there is nothing to do. dpkg may run each again after a failure."""
    own = ROOT / f"packaging/scripts/{package.name}.{name}"
    made: dict[str, list[str]] = {
        "preinst": [],
        "postinst": _postinst(package),
        "prerm": _prerm(package),
        "postrm": _postrm(package),
    }
    parts = [own.read_text().rstrip(), *made[name]] if own.exists() else made[name]
    if name == "prerm":
        parts.reverse()
    return "#!/bin/sh\nset -e\n\n" + "\n\n".join(parts) + "\n" if parts else None


def _postinst(package: Package) -> list[str]:
    parts = []
    if package.python:
        parts.append(f'if [ "$1" = configure ]; then\n    py3compile -p {package.name} /{FOLDER}\nfi')
    if package.units:
        # Never started or enabled here: both need a configuration first. What runs is restarted by an upgrade.
        restarts = "".join(
            f"        if systemctl is-active --quiet {unit}; then\n"
            f"            deb-systemd-invoke restart {unit} || true\n"
            "        fi\n"
            for unit in package.units
        )
        parts.append(
            'if [ "$1" = configure ] && [ -d /run/systemd/system ]; then\n'
            "    systemctl --system daemon-reload || true\n"
            f'    if [ -n "$2" ]; then\n{restarts}    fi\nfi'
        )
    return parts


def _prerm(package: Package) -> list[str]:
    parts = []
    if package.python:
        parts.append(f"py3clean -p {package.name}")
    if package.units:
        units = " ".join(package.units)
        parts.append(
            f'if [ "$1" = remove ] && [ -d /run/systemd/system ]; then\n    deb-systemd-invoke stop {units} || true\nfi'
        )
    return parts


def _postrm(package: Package) -> list[str]:
    if not package.units:
        return []
    links = " ".join(f"/etc/systemd/system/multi-user.target.wants/{unit}" for unit in package.units)
    return [
        f'if [ "$1" = purge ]; then\n    rm -f {links}\nfi',
        "if [ -d /run/systemd/system ]; then\n    systemctl --system daemon-reload || true\nfi",
    ]
