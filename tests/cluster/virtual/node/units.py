"""Runs services by their systemd units, as far as a node without systemd can: commands, users, folders, readiness.

Understood: ExecStartPre, ExecStart, Type, User, Group, UMask, Environment, EnvironmentFile, WorkingDirectory,
Runtime-, State-, Logs-, CacheDirectory and their modes, PIDFile. All else (limits, sandboxes, ordering, restarts) is
left out.
Reference: systemd.service(5), systemd.exec(5). Runs on a node, with Debian's Python and nothing else.
"""

import grp
import os
import pwd
import re
import shlex
from dataclasses import dataclass, field

FOLDERS = ("/etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system")
PLACES = {"RuntimeDirectory": "/run", "StateDirectory": "/var/lib", "LogsDirectory": "/var/log",
          "CacheDirectory": "/var/cache"}  # fmt: skip


class UnitError(Exception):
    """A unit that is not there or cannot be run here."""


@dataclass
class Unit:
    """One service. `values`: each key of [Service] with its values in order; an empty one forgets those before."""

    name: str
    values: dict[str, list[str]] = field(default_factory=dict)

    def last(self, key: str, default: str = "") -> str:
        """The value that counts of a key that has one value."""
        return self.values.get(key, [default])[-1]

    @property
    def user(self) -> str:
        """Whom it runs as."""
        return self.last("User", "root")

    def environment(self) -> dict[str, str]:
        """Its variables. A file that must be there and is not is an error."""
        found = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        for text in self.values.get("Environment", []):
            for word in shlex.split(text):
                key, _, value = word.partition("=")
                found[key] = value
        for path in self.values.get("EnvironmentFile", []):
            try:
                with open(path.removeprefix("-"), encoding="utf-8") as file:
                    lines = [line.strip() for line in file]
            except OSError as error:
                if path.startswith("-"):
                    continue
                raise UnitError(f"{self.name}: EnvironmentFile={path}: {error.strerror}") from error
            for line in lines:
                if "=" in line and not line.startswith(("#", ";")):
                    key, _, value = line.partition("=")
                    found[key.strip()] = " ".join(shlex.split(value))
        return found

    def commands(self, key: str) -> list[list[str]]:
        """The argument lists of ExecStart and its like, variables filled in."""
        variables = self.environment()
        return [_command(text, variables) for text in self.values.get(key, [])]

    def folders(self) -> list[tuple[str, int]]:
        """Folders to be made for its user before it starts, with their modes."""
        found = []
        for key, place in PLACES.items():
            mode = int(self.last(f"{key}Mode", "0755"), 8)
            for text in self.values.get(key, []):
                found += [(f"{place}/{name.split(':')[0]}", mode) for name in text.split()]
        return found

    def make_folders(self) -> None:
        """Make them; those that are there get owner and mode again."""
        who = pwd.getpwnam(self.user)
        gid = grp.getgrnam(self.last("Group")).gr_gid if self.last("Group") else who.pw_gid
        for path, mode in self.folders():
            os.makedirs(path, exist_ok=True)
            os.chown(path, who.pw_uid, gid)
            os.chmod(path, mode)


def _command(text: str, variables: dict[str, str]) -> list[str]:
    words: list[str] = []
    for word in shlex.split(text.lstrip("-@:+!")):
        if alone := re.fullmatch(r"\$(\w+)", word):
            words += variables.get(alone[1], "").split()
        else:
            words.append(re.sub(r"\$\{(\w+)\}", lambda match: variables.get(match[1], ""), word))
    return words


def load(name: str) -> Unit:
    """The unit of a service, with its drop-ins. Raises UnitError if no package has brought one."""
    paths = [f"{folder}/{name}.service" for folder in FOLDERS]
    path = next((p for p in paths if os.path.exists(p)), None)
    if path is None:
        raise UnitError(f"no unit {name}.service; looked in {', '.join(FOLDERS)}")
    unit = Unit(name)
    _read(unit, path)
    drop_ins = {}
    for folder in reversed(FOLDERS):
        if os.path.isdir(f"{folder}/{name}.service.d"):
            drop_ins.update({n: f"{folder}/{name}.service.d/{n}" for n in os.listdir(f"{folder}/{name}.service.d")})
    for _, path in sorted(drop_ins.items()):
        _read(unit, path)
    return unit


def _read(unit: Unit, path: str) -> None:
    with open(path, encoding="utf-8") as file:
        text = file.read().replace("\\\n", " ")
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            if value.strip():
                unit.values.setdefault(key.strip(), []).append(value.strip())
            else:
                unit.values.pop(key.strip(), None)
