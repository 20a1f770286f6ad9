"""From a filled folder to a .deb: control file, checksums, conffiles, dpkg-deb."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from debs import scripts
from debs.recipe import Package, Recipe


@dataclass(frozen=True, slots=True)
class Fields:
    """What a control file says beyond packages.toml. depends: complete, in order."""

    version: str
    architecture: str
    depends: tuple[str, ...]
    recommends: tuple[str, ...]
    description: str


def is_elf(path: Path) -> bool:
    """Whether a file is compiled."""
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def compiled(tree: Path) -> list[Path]:
    """All compiled files of a package, sorted."""
    return [path for path in files(tree) if is_elf(path)]


def files(tree: Path) -> list[Path]:
    """All files of a package, sorted, without its control files."""
    return sorted(path for path in tree.rglob("*") if path.is_file() and "DEBIAN" not in path.relative_to(tree).parts)


def pack(recipe: Recipe, package: Package, fields: Fields, tree: Path, output: Path, epoch: int) -> Path:
    """Write the control files and the archive; the same input gives the same bytes. The path of the .deb."""
    control = tree / "DEBIAN"
    control.mkdir(mode=0o755)
    contents = files(tree)
    contents = [path for path in contents if control not in path.parents]
    sums = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(tree)}\n" for path in contents]  # noqa: S324
    (control / "md5sums").write_text("".join(sums))
    if conffiles := [path for path in contents if path.relative_to(tree).parts[0] == "etc"]:
        (control / "conffiles").write_text("".join(f"/{path.relative_to(tree)}\n" for path in conffiles))
    size = sum(-(-path.stat().st_size // 1024) for path in contents) + sum(path.is_dir() for path in tree.rglob("*"))
    (control / "control").write_text(_control(recipe, package, fields, size))
    for name in scripts.NAMES:
        if text := scripts.script(package, name):
            (control / name).write_text(text)
            (control / name).chmod(0o755)
    for path in control.iterdir():
        if path.name not in scripts.NAMES:
            path.chmod(0o644)
    target = output / f"{package.name}_{fields.version}_{fields.architecture}.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(tree), str(target)],
        check=True,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "LC_ALL": "C"},
        stdout=subprocess.DEVNULL,
        timeout=300,
    )
    return target


def _control(recipe: Recipe, package: Package, fields: Fields, size: int) -> str:
    lines = [
        f"Package: {package.name}",
        "Source: ebb",
        f"Version: {fields.version}",
        f"Architecture: {fields.architecture}",
        f"Maintainer: {recipe.maintainer}",
        f"Installed-Size: {size}",
        *_relation("Depends", fields.depends),
        *_relation("Recommends", fields.recommends),
        f"Section: {recipe.section}",
        "Priority: optional",
        f"Description: {package.summary}",
        *(f" {line}" if line else " ." for line in fields.description.strip().splitlines()),
    ]
    return "\n".join(lines) + "\n"


def _relation(name: str, packages: Sequence[str]) -> list[str]:
    return [f"{name}: {', '.join(packages)}"] if packages else []
