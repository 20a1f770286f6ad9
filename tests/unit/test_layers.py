"""The structure that the sources keep: who may import whom, how long a module may be, what only one module may do."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MAY_IMPORT = {
    "ebb": {"ebb"},
    "spank": {"spank", "ebb"},
    "healthchecker": {"healthchecker", "ebb"},
    "dnd": {"dnd", "ebb"},
    "orchestrator": {"orchestrator", "ebb"},
}
"""Which of our packages each package may import."""

LAYERS = {
    "orchestrator": (
        {"server"},
        {"metrics"},
        {"owner", "publish", "reconcile", "verbs"},
        {"buffers", "workers"},
        {"engine", "placement"},
        {"allocator", "datanodes", "store"},
        {"bbstat", "head", "hooks", "jobfiles", "plan", "records", "schema", "shortage", "slurm"},
        {"rooms"},
    ),
    "dnd": (
        {"daemon"},
        {"verbs"},
        {"lifecycle", "strays"},
        {"dasi"},
        {"gbf", "sbb"},
        {"kind"},
        {"datasets"},
        {"hestia", "service"},
        {"ganesha", "health", "staging"},
        {"journal"},
        {"ports", "privileges", "tools"},
    ),
    "healthchecker": (
        {"cli"},
        {"report"},
        {"registry", "runner", "database"},
        {"checks"},
        {"check"},
        {"service"},
    ),
}
"""Modules and sub-packages from the top down; each imports only its own layer and those below. Others are free."""

PURE = {"orchestrator.allocator", "orchestrator.rooms", "orchestrator.head", "orchestrator.shortage"}
IMPURE = {"asyncio", "os", "pathlib", "random", "shutil", "socket", "sqlalchemy", "subprocess", "threading", "time"}

MOST_LINES = 400


@cache
def sources() -> tuple[Path, ...]:
    return tuple(path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py")))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def walk(tree: ast.AST) -> Iterator[ast.AST]:
    for entry in ast.iter_child_nodes(tree):
        if not (isinstance(entry, ast.If) and ast.unparse(entry.test) == "__name__ == '__main__'"):
            yield entry
            yield from walk(entry)


@cache
def imports(path: Path) -> tuple[tuple[int, str], ...]:
    """Every imported module of a source, wherever the import stands; `from a import b` counts as a and a.b.

    What only a module run as a program imports does not count: nobody who imports the module gets it.
    """
    found: list[tuple[int, str]] = []
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for entry in walk(ast.parse(path.read_text(), str(path))):
        if isinstance(entry, ast.Import):
            found += [(entry.lineno, alias.name) for alias in entry.names]
        elif isinstance(entry, ast.ImportFrom):
            base = entry.module or ""
            if entry.level:
                parents = package.split(".")[: len(package.split(".")) - entry.level + 1]
                base = ".".join([*parents, base] if base else parents)
            found += [(entry.lineno, base), *((entry.lineno, f"{base}.{alias.name}") for alias in entry.names)]
    return tuple(found)


def crossings() -> Iterator[str]:
    for path in sources():
        own = name_of(path).partition(".")[0]
        for line, module in imports(path):
            other = module.partition(".")[0]
            if other in MAY_IMPORT and other not in MAY_IMPORT[own]:
                yield f"{path.relative_to(ROOT)}:{line} imports {module}"


def test_packages_import_only_what_lies_below() -> None:
    assert sources(), "no sources found"
    assert list(crossings()) == []


def depth_of(package: str, module: str) -> int | None:
    """The layer of `package` that `module` is in, 0 on top; None: in none."""
    own, _, rest = module.partition(".")
    part = rest.partition(".")[0]
    return next((n for n, layer in enumerate(LAYERS[package]) if own == package and part in layer), None)


@pytest.mark.parametrize("package", LAYERS)
def test_modules_import_down_only(package: str) -> None:
    upwards = []
    for path in sources():
        depth = depth_of(package, name_of(path))
        if depth is None:
            continue
        for line, other in imports(path):
            above = depth_of(package, other)
            if above is not None and above < depth:
                upwards.append(f"{path.relative_to(ROOT)}:{line} imports {other}, which lies above it")
    assert upwards == []


def test_modules_import_in_no_circle() -> None:
    known = {name_of(path): path for path in sources()}
    needs = {name: {module for _, module in imports(path) if module in known} - {name} for name, path in known.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in needs[name]:
                visit(other, (*way, name))
            done.add(name)

    for name in needs:
        visit(name, ())


def test_the_allocator_is_pure() -> None:
    for path in sources():
        if name_of(path) in PURE:
            impure = [(line, module) for line, module in imports(path) if module.partition(".")[0] in IMPURE]
            assert impure == [], path


def test_sql_stands_in_the_store_only() -> None:
    allowed = {"orchestrator.store", "orchestrator.schema", "orchestrator.engine"}
    users = {name_of(p) for p in sources() if any(m.partition(".")[0] == "sqlalchemy" for _, m in imports(p))}
    assert users <= allowed, users - allowed


def test_no_module_is_too_long_to_read_in_one_sitting() -> None:
    long = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in sources()}
    assert {str(path): lines for path, lines in long.items() if lines > MOST_LINES} == {}


def test_no_shell_and_no_bare_except() -> None:
    for path in sources():
        for entry in ast.walk(ast.parse(path.read_text())):
            where = f"{path.relative_to(ROOT)}:{getattr(entry, 'lineno', 0)}"
            if isinstance(entry, ast.ExceptHandler):
                assert entry.type is not None, f"{where}: a bare except hides what went wrong"
            if isinstance(entry, ast.keyword) and entry.arg == "shell":
                assert isinstance(entry.value, ast.Constant) and not entry.value.value, f"{where}: starts a shell"
            if isinstance(entry, ast.Attribute) and isinstance(entry.value, ast.Name):
                assert f"{entry.value.id}.{entry.attr}" not in {"os.system", "os.popen"}, f"{where}: starts a shell"
