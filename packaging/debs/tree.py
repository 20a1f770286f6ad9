"""A package's files in a folder as they will lie on a node."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

from debs import python_parts
from debs.errors import BuildError
from debs.recipe import ROOT, Package, Recipe, Suite, has_script

_WRAPPER = """#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "/{folder}")

from {module} import {function}

if __name__ == "__main__":
    sys.exit({function}())
"""
_COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: Ebb
Comment: made from Ebb's sources. What lies beside them in
 /usr/lib/ebb/python with a .dist-info folder is not Ebb's; its licence stands
 in that folder.

Files: *
Copyright: the authors of Ebb
License: see-the-sources
 The terms are those of the source distribution that this package was built
 from.
"""
_CHANGELOG = """ebb ({version}) {suite}; urgency=medium

  * Built from Ebb {upstream}.

 -- {maintainer}  {date}
"""


def fill(recipe: Recipe, package: Package, suite: Suite, tree: Path, built: Path, changelog: dict[str, str]) -> None:
    """Put everything but what is brought along into `tree`. `built`: what the build root made.

    Raises BuildError if something that packages.toml names is not there.
    """
    for folder in package.folders:
        (tree / folder).mkdir(parents=True)
    for path in python_parts.sources(package):
        _copy(ROOT / path, tree / python_parts.FOLDER / path)
    for name, target in recipe.scripts.items():
        if has_script(package, name, target):
            _wrapper(tree, name, target)
            _man_page_of(tree, name)
    for page in package.man:
        _man_page(tree, ROOT / "packaging/man" / page)
    for unit in package.units:
        _copy(ROOT / "packaging/systemd" / unit, tree / "usr/lib/systemd/system" / unit)
    for source, target in package.files.items():
        if not _files(tree, source.format(burst_buffer_conf=suite.burst_buffer_conf), target, built):
            raise BuildError(f"{package.name}: there is no {source}; see packages.toml")
    for source, target in package.later.items():
        _files(tree, source, target, built)
    _documents(recipe, package, tree, changelog)
    for path in tree.rglob("*"):
        path.chmod(0o755 if path.is_dir() or _is_program(path.relative_to(tree)) else 0o644)


def metadata(recipe: Recipe, tree: Path) -> None:
    """Ebb's name and version where importlib.metadata finds them; the daemons report it."""
    folder = tree / python_parts.FOLDER / f"ebb-{recipe.version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ebb\nVersion: {recipe.version}\n")


def _files(tree: Path, pattern: str, target: str, built: Path) -> bool:
    base, pattern = (built, pattern.removeprefix("built:")) if pattern.startswith("built:") else (ROOT, pattern)
    found = sorted(base.glob(pattern))
    for source in found:
        _copy(source, tree / target / source.name if target.endswith("/") else tree / target)
    return bool(found)


def _wrapper(tree: Path, name: str, target: str) -> None:
    module, _, function = target.partition(":")
    path = tree / ("usr/bin" if _page(name, 1) else "usr/sbin") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_WRAPPER.format(folder=python_parts.FOLDER, module=module, function=function))


def _page(name: str, section: int) -> Path | None:
    path = ROOT / f"packaging/man/{name}.{section}"
    return path if path.exists() else None


def _man_page_of(tree: Path, name: str) -> None:
    page = _page(name, 1) or _page(name, 8)
    if page is not None:
        _man_page(tree, page)


def _man_page(tree: Path, page: Path) -> None:
    folder = tree / f"usr/share/man/man{page.suffix[1:]}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{page.name}.gz").write_bytes(_gzip(page.read_bytes()))


def _documents(recipe: Recipe, package: Package, tree: Path, changelog: dict[str, str]) -> None:
    folder = tree / "usr/share/doc" / package.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "copyright").write_text(_COPYRIGHT)
    text = _CHANGELOG.format(upstream=recipe.version, maintainer=recipe.maintainer, **changelog)
    (folder / "changelog.gz").write_bytes(_gzip(text.encode()))


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, 9, mtime=0)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        raise BuildError(f"{target.name} stands twice in packages.toml")
    shutil.copyfile(source, target)


def _is_program(path: Path) -> bool:
    return path.parts[:2] in {("usr", "bin"), ("usr", "sbin"), ("usr", "libexec")}
