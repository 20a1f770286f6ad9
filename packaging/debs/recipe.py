"""packages.toml and pyproject.toml as values: what is built from what."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debs.errors import BuildError

ROOT = Path(__file__).resolve().parents[2]
_SCRAP = {"__pycache__", ".mypy_cache", ".ruff_cache"}


@dataclass(frozen=True, slots=True)
class Suite:
    """A Debian release. tag: ends the version; vendored: names as in requirements.lock."""

    name: str
    tag: str
    burst_buffer_conf: str
    vendored: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Build:
    """A command for the build root, run if the checkout has `when`."""

    when: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Package:
    """One Debian package, as written in packages.toml."""

    name: str
    summary: str
    description: str
    depends: tuple[str, ...]
    recommends: tuple[str, ...]
    python: tuple[str, ...]
    scripts: tuple[str, ...]
    man: tuple[str, ...]
    units: tuple[str, ...]
    folders: tuple[str, ...]
    files: dict[str, str]
    later: dict[str, str]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that the two files say. scripts: command -> `module:function`; pins: lower-case name -> version."""

    maintainer: str
    section: str
    sources: tuple[str, ...]
    suites: dict[str, Suite]
    imports: dict[str, str]
    build_packages: tuple[str, ...]
    builds: tuple[Build, ...]
    packages: tuple[Package, ...]
    version: str
    scripts: dict[str, str]
    pins: dict[str, str]

    def suite(self, name: str) -> Suite:
        """By name. Raises BuildError for one that is not in packages.toml."""
        if name not in self.suites:
            raise BuildError(f"suite `{name}`: packages.toml knows {', '.join(self.suites)}")
        return self.suites[name]

    def files(self) -> Iterator[Path]:
        """All source files that packages are made of, relative to the checkout, sorted."""
        for name in self.sources:
            path = ROOT / name
            found = [path] if path.is_file() else sorted(path.rglob("*"))
            for each in found:
                relative = each.relative_to(ROOT)
                if each.is_file() and not _SCRAP & set(relative.parts) and each.suffix not in {".pyc", ".o", ".so"}:
                    yield relative

    def digest(self) -> str:
        """SHA-256 over names, modes and contents of all source files."""
        digest = hashlib.sha256()
        for path in self.files():
            data = (ROOT / path).read_bytes()
            digest.update(f"{path}\0{(ROOT / path).stat().st_mode & 0o111}\0{len(data)}\0".encode())
            digest.update(data)
        return digest.hexdigest()


def digest_of(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def load() -> Recipe:
    """Read both files of this checkout. Raises BuildError if they do not fit each other."""
    recipe = tomllib.loads((ROOT / "packaging/packages.toml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    loaded = Recipe(
        maintainer=recipe["maintainer"],
        section=recipe["section"],
        sources=tuple(recipe["sources"]),
        suites={
            name: Suite(name, entry["tag"], entry["burst_buffer_conf"], tuple(entry["vendored"]))
            for name, entry in recipe["suites"].items()
        },
        imports=recipe["imports"],
        build_packages=tuple(recipe["build_root"]["packages"]),
        builds=tuple(Build(entry["when"], tuple(entry["command"])) for entry in recipe["builds"]),
        packages=tuple(_package(name, entry) for name, entry in recipe["packages"].items()),
        version=project["version"],
        scripts=project["scripts"],
        pins=_pins((ROOT / "requirements.lock").read_text()),
    )
    homeless = [
        name for name, target in loaded.scripts.items() if not any(has_script(p, name, target) for p in loaded.packages)
    ]
    if homeless:
        raise BuildError(f"console scripts {', '.join(homeless)}: no package has their modules; see packages.toml")
    return loaded


def has_script(package: Package, name: str, target: str) -> bool:
    """Whether a console script belongs to a package: by name, or by its module; `ebb` by name alone."""
    return name in package.scripts or (target.split(".")[0].split(":")[0] in package.python and name != "ebb")


def _package(name: str, entry: dict[str, Any]) -> Package:
    known = {"summary", "description", *Package.__dataclass_fields__} - {"name"}
    if unknown := set(entry) - known:
        raise BuildError(f"packages.toml: {name}: {', '.join(sorted(unknown))}: not one of {', '.join(sorted(known))}")
    lists = {
        key: tuple(entry.get(key, ()))
        for key in ("depends", "recommends", "python", "scripts", "man", "units", "folders")
    }
    return Package(
        name=name,
        summary=entry["summary"],
        description=entry["description"],
        files=entry.get("files", {}),
        later=entry.get("later", {}),
        **lists,
    )


def _pins(text: str) -> dict[str, str]:
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    pairs = (line.split("==") for line in lines if "==" in line)
    return {name.lower(): version for name, version in pairs}
