"""Python in packages: what modules import, which Debian packages have that, and what must be brought along."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from debs.errors import BuildError
from debs.recipe import ROOT, Package, Recipe, Suite
from debs.root import BuildRoot

FOLDER = "usr/lib/ebb/python"
# The newest C libraries that wheels may ask for, oldest suite first; pip wants each spelled out.
_PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_24", "manylinux_2_28", "manylinux_2_34")
# Made by the SPANK plugin itself, inside the host process; built and never imported where _cffi_build runs.
_NOT_MODULES = {"spank_ebb_python"}
_ONLY_FOR_BUILDING = {"spank/_cffi_build.py"}


def sources(package: Package) -> list[Path]:
    """The Python files of a package, relative to the checkout; a folder that does not exist yet has none."""
    found = [
        path.relative_to(ROOT)
        for name in package.python
        for path in sorted((ROOT / name).rglob("*"))
        if path.suffix in {".py", ".pyi"} or path.name == "py.typed"
    ]
    return [path for path in found if str(path) not in _ONLY_FOR_BUILDING and "__pycache__" not in path.parts]


def third_party(recipe: Recipe, package: Package) -> list[str]:
    """The modules that a package imports and that are neither Python's nor ours.

    Raises BuildError for one that packages.toml does not know.
    """
    ours = {name for each in recipe.packages for name in each.python}
    imported: set[str] = set()
    for path in sources(package):
        if path.suffix == ".py":
            imported |= _imports(ROOT / path)
    foreign = sorted(imported - ours - _NOT_MODULES - sys.stdlib_module_names)
    for name in foreign:
        if name not in recipe.imports:
            raise BuildError(
                f"{package.name} imports `{name}`: [imports] in packages.toml must say which package has it"
            )
    return foreign


def debian_dependencies(recipe: Recipe, package: Package, suite: Suite) -> list[str]:
    """Debian's packages for what a package imports, without what is brought along."""
    vendored = {name.lower() for name in suite.vendored}
    return [recipe.imports[name] for name in third_party(recipe, package) if name.lower() not in vendored]


def vendored_for(recipe: Recipe, package: Package, suite: Suite) -> list[str]:
    """What a package must bring along, as names of the package index: what it imports, and SQLAlchemy's own needs.

    Not what a package of ours that it depends on brings already.
    """
    needs = {"typing_extensions": "sqlalchemy"}
    imported = {name.lower() for name in third_party(recipe, package)}
    for other in recipe.packages:
        if any(each.split()[0] == other.name for each in package.depends):
            imported -= {name.lower() for name in third_party(recipe, other)}
    return [name for name in suite.vendored if needs.get(name, name).lower() in imported]


def install_vendored(recipe: Recipe, names: Iterable[str], root: BuildRoot, target: Path) -> None:
    """Put distributions for the root's Python into `target`, in the versions of requirements.lock."""
    wanted = [f"{name}=={recipe.pins[name.lower()]}" for name in names]
    if not wanted:
        return
    machine = os.uname().machine
    version = python_version(root)
    pip = ROOT / ".venv/bin/python"
    if not pip.exists():
        raise BuildError(f"{pip} is missing: run `make setup`")
    argv = [str(pip), "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps", "--no-compile"]
    argv += ["--only-binary=:all:", "--implementation=cp", f"--python-version={version}"]
    argv += [f"--platform={name}_{machine}" for name in _PLATFORMS]
    done = subprocess.run([*argv, f"--target={target}", *wanted], check=False, stdout=sys.stderr, timeout=600)
    if done.returncode:
        raise BuildError(f"pip found no {', '.join(wanted)} for Python {version}")
    for path in sorted(target.glob("*.dist-info/*")):
        if path.name in {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}:
            path.unlink()  # what pip notes about this machine
    for path in target.glob("bin/*"):
        path.unlink()


def python_version(root: BuildRoot) -> str:
    """major.minor of a root's python3."""
    return ".".join(root.version("python3").split(".")[:2])


def python_range(root: BuildRoot) -> list[str]:
    """The dependencies of what is compiled for one Python."""
    major, minor = python_version(root).split(".")
    return [f"python3 (>= {major}.{minor}~)", f"python3 (<< {major}.{int(minor) + 1}~)"]


def _imports(path: Path) -> set[str]:
    """Top-level names of all imports of a module, also those inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names
