"""The command: puts recipe, build root, trees and archives together."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from email.utils import formatdate
from pathlib import Path

from debs import archive, python_parts, recipe, root, tree
from debs.errors import BuildError
from debs.recipe import ROOT, Package, Recipe, Suite

_IMPORT_ALL = """
import importlib, pathlib, sys
sys.path[:0] = sys.argv[1:]
for folder in map(pathlib.Path, sys.argv[1:]):
    for path in sorted(folder.rglob("*.py")):
        compile(path.read_text(), str(path), "exec")
        name = ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
        if name.split(".")[0] in OURS and name != "spank.callbacks" and not name.endswith("as_user_helper"):
            importlib.import_module(name)
"""


def main(arguments: Sequence[str]) -> int:
    """Build, and print the paths of the packages."""
    parser = argparse.ArgumentParser(prog="packaging/build", description="Build Ebb's Debian packages.")
    parser.add_argument("--suite", default=root.codename(), help="Debian release (default: this machine's)")
    parser.add_argument("--output", type=Path, help="folder for the packages (default: dist/<suite>)")
    parser.add_argument("--fresh", action="store_true", help="make the build root anew")
    options = parser.parse_args(arguments)
    try:
        if os.geteuid() != 0:
            raise BuildError("needs root, for the build root")
        output = (options.output or ROOT / "dist" / options.suite).absolute()
        for path in build(options.suite, output, fresh=options.fresh):
            print(path)
    except BuildError as error:
        print(f"packaging/build: {error}", file=sys.stderr)
        return 1
    return 0


def build(suite_name: str, output: Path, *, fresh: bool = False) -> list[Path]:
    """The packages of a suite in `output`; built only if what is there was made from something else.

    Raises BuildError.
    """
    plan = recipe.load()
    suite = plan.suite(suite_name)
    build_root = root.build_root(suite.name, _build_packages(plan, suite), fresh=fresh)
    key = f"{plan.digest()} {build_root.identity}"
    stamp = output / ".built"
    if (done := _built(stamp, key)) is not None:
        return done
    print(f"packaging: building for {suite.name} in {output}", file=sys.stderr, flush=True)
    output.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    for old in output.glob("ebb-*.deb"):
        old.unlink()
    with tempfile.TemporaryDirectory(prefix="ebb-packages-") as work:
        Path(work).chmod(0o755)
        paths = _build(plan, suite, build_root, Path(work), output)
    stamp.write_text(
        json.dumps({"key": key, "packages": {path.name: _digest(path) for path in paths}}, indent=1) + "\n"
    )
    return paths


def _built(stamp: Path, key: str) -> list[Path] | None:
    """The packages of an earlier call, if they were made from the same things and nobody touched them."""
    try:
        found = json.loads(stamp.read_text())
        same = found["key"] == key and all(_digest(stamp.parent / n) == d for n, d in found["packages"].items())
    except (OSError, ValueError, KeyError):
        return None
    return [stamp.parent / name for name in found["packages"]] if same else None


def _digest(path: Path) -> str:
    return recipe.digest_of(path.read_bytes())


def _build_packages(plan: Recipe, suite: Suite) -> list[str]:
    vendored = {name.lower() for name in suite.vendored}
    return [*plan.build_packages, *(package for name, package in plan.imports.items() if name.lower() not in vendored)]


def _build(plan: Recipe, suite: Suite, build_root: root.BuildRoot, work: Path, output: Path) -> list[Path]:
    epoch = _epoch()
    source, out = work / "source", work / "output"
    (out / "built").mkdir(parents=True)
    for path in plan.files():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, source / path)
    for step in plan.builds:
        if (source / step.when).exists():
            sys.stderr.write(build_root.run(step.command, source=source, output=out, epoch=epoch))
    version = f"{plan.version}~{suite.tag}"
    changelog = {"version": version, "suite": suite.name, "date": formatdate(epoch)}
    for package in plan.packages:
        folder = out / "trees" / package.name
        folder.mkdir(parents=True, mode=0o755)
        names = python_parts.vendored_for(plan, package, suite)
        python_parts.install_vendored(plan, names, build_root, folder / python_parts.FOLDER)
        if "ebb" in package.python:
            tree.metadata(plan, folder)
        tree.fill(plan, package, suite, folder, out / "built", changelog)
    _no_file_twice(plan, out / "trees")
    _check_imports(plan, build_root, source, out)
    fields = {p.name: _fields(plan, p, suite, version, build_root, source, out) for p in plan.packages}
    return [archive.pack(plan, p, fields[p.name], out / "trees" / p.name, output, epoch) for p in plan.packages]


def _epoch() -> int:
    """SOURCE_DATE_EPOCH, else the time of the last commit, else that of pyproject.toml."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    argv = ["git", "-C", str(ROOT), "-c", f"safe.directory={ROOT}", "log", "-1", "--format=%ct"]
    try:
        return int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return int((ROOT / "pyproject.toml").stat().st_mtime)


def _no_file_twice(plan: Recipe, trees: Path) -> None:
    owners: dict[Path, str] = {}
    for package in plan.packages:
        for path in archive.files(trees / package.name):
            relative = path.relative_to(trees / package.name)
            owner = owners.setdefault(relative, package.name)
            if owner != package.name:
                raise BuildError(f"{relative} is in {owner} and in {package.name}")


def _check_imports(plan: Recipe, build_root: root.BuildRoot, source: Path, out: Path) -> None:
    """Import every module with the suite's Python and Debian's libraries: what fails here would fail on a node."""
    folders = [
        f"/build/output/trees/{p.name}/{python_parts.FOLDER}"
        for p in plan.packages
        if (out / "trees" / p.name / python_parts.FOLDER).exists()
    ]
    ours = {name for package in plan.packages for name in package.python}
    program = f"OURS = {sorted(ours)!r}\n{_IMPORT_ALL}"
    joined = out / "joined"
    joined.mkdir()
    for folder in folders:
        shutil.copytree(out / folder.removeprefix("/build/output/"), joined, dirs_exist_ok=True)
    build_root.run(
        ["python3", "-I", "-W", "error::SyntaxWarning", "-c", program, "/build/output/joined"],
        source=source,
        output=out,
    )


def _fields(
    plan: Recipe, package: Package, suite: Suite, version: str, build_root: root.BuildRoot, source: Path, out: Path
) -> archive.Fields:
    folder = out / "trees" / package.name
    binaries = archive.compiled(folder)
    words = {"version": version, **_slurm(build_root)}
    depends = [each.format(**words) for each in package.depends]
    depends += python_parts.debian_dependencies(plan, package, suite)
    if binaries:
        depends += _strip_and_ask(build_root, folder, binaries, source, out)
    if any(path.suffix == ".so" for path in binaries):  # modules of one Python, and the plugin that embeds it
        depends += python_parts.python_range(build_root)
    return archive.Fields(
        version=version,
        architecture=_architecture() if binaries else "all",
        depends=tuple(dict.fromkeys(depends)),
        recommends=tuple(each.format(**words) for each in package.recommends),
        description=package.description.format(**words),
    )


def _slurm(build_root: root.BuildRoot) -> dict[str, str]:
    """`slurm` and `slurm_next`: the release against which the plugin is built, and the first that it does not fit."""
    major, minor = build_root.version("libslurm-dev").split(".")[:2]
    return {"slurm": f"{major}.{minor}", "slurm_next": f"{major}.{int(minor) + 1:02}"}


def _strip_and_ask(
    build_root: root.BuildRoot, folder: Path, binaries: list[Path], source: Path, out: Path
) -> list[str]:
    """Drop symbols from compiled files; the libraries that they need, as the suite's own tools say."""
    inside = [f"/build/output/{path.relative_to(out)}" for path in binaries]
    program = (
        'strip --strip-unneeded --remove-section=.comment --remove-section=.note "$@" && '
        "mkdir -p /tmp/ask/debian && cd /tmp/ask && "
        'printf "Source: ebb\\n\\nPackage: ebb\\nArchitecture: any\\n" >debian/control && '
        'dpkg-shlibdeps -O --warnings=0 "$@" 2>/dev/null'
    )
    answer = build_root.run(["sh", "-c", program, "sh", *inside], source=source, output=out)
    for line in answer.splitlines():
        if line.startswith("shlibs:Depends="):
            return line.partition("=")[2].split(", ")
    return []


def _architecture() -> str:
    return subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()
