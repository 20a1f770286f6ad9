"""datanodes.conf: which datanodes there are, what they offer, which flavors SBB buffers come in.

Slurm-style lines of `Key=Value` with hostlists. ebb/datanodes_schema.py is the one place that says which keys there
are; parser, messages, docs/datanodes-conf.md and datanodes.conf.example all come from it.

    python -m ebb.datanodes FILE        check a file before it is used: a table, or every error
    python -m ebb.datanodes --example   the text of datanodes.conf.example
    python -m ebb.datanodes --docs      the text of docs/datanodes-conf.md
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebb.datanodes_schema import FLAVOR, NODE, SCHEMA, STORE, Record
from ebb.errors import UserError
from ebb.layout import Layout
from ebb.model import Backend, Datanode, Flavor, VolumeGroup
from ebb.objectstore import ObjectStore, StoreKind


@dataclass(frozen=True, slots=True)
class Site:
    """What a datanodes.conf says. healthchecker: path of pshcservcheck on the datanodes, None: no health checks.

    object_store: where HESTIA@ datasets keep their data, None: there is none.
    """

    datanodes: tuple[Datanode, ...]
    flavors: tuple[Flavor, ...] = ()
    healthchecker: str | None = None
    object_store: ObjectStore | None = None

    def datanode(self, name: str) -> Datanode | None:
        """The datanode called `name`, None if this file has none."""
        return next((node for node in self.datanodes if node.name == name), None)

    def flavor(self, name: str) -> Flavor | None:
        """The flavor called `name`, None if this file has none."""
        return next((flavor for flavor in self.flavors if flavor.name == name), None)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a file. line: from 1; 0 when it is the file as a whole."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}" if self.line else f"{self.file}: {self.reason}"


class DatanodesError(UserError):
    """A datanodes.conf that cannot be used. `problems` has all of them; the text joins them in one line."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, problems)))


# --- parser -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Token:
    line: int
    text: str


def _logical_lines(text: str) -> Iterator[list[_Token]]:
    """Lines as lists of words; a word keeps the number of the line it really stands on."""
    tokens: list[_Token] = []
    for number, raw in enumerate(text.splitlines(), 1):
        content = raw.split("#", 1)[0].rstrip()
        continued = content.endswith("\\")
        tokens += [_Token(number, word) for word in content.removesuffix("\\").split()]
        if not continued:
            if tokens:
                yield tokens
            tokens = []
    if tokens:
        yield tokens


class _Parser:
    """Collects one file's records and problems; `site()` at the end gives or raises."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.nodes: dict[str, tuple[Datanode, int]] = {}
        self.endpoints: dict[tuple[str, int], str] = {}
        self.flavors: dict[str, tuple[Flavor, int]] = {}
        self.once: dict[str, tuple[Any, int]] = {}

    def refuse(self, line: int, reason: str) -> None:
        self.problems.append(Problem(self.file, line, reason))

    def take(self, tokens: list[_Token]) -> None:
        """One logical line."""
        first, line = tokens[0].text.partition("=")[0], tokens[0].line
        record = next((r for r in SCHEMA if r.keys[0].name.lower() == first.lower()), None)
        if record is None:
            kinds = ", ".join(f"{r.keys[0].name}=" for r in SCHEMA)
            self.refuse(line, f"a line that begins with `{tokens[0].text}` is unknown; lines begin with {kinds}")
            return
        values = self._values(record, tokens)
        if values is None:
            return
        if record is NODE:
            self._datanodes(values, line)
        elif record is FLAVOR:
            self._flavor(values, line)
        elif record is STORE:
            self._store(values, line)
        else:
            self._one("HealthChecker", values["HealthChecker"], line)

    def _one(self, key: str, value: object, line: int) -> None:
        """A line that may stand in the file once."""
        if self.once.setdefault(key, (value, line))[1] != line:
            self.refuse(line, f"{key} is given twice, first on line {self.once[key][1]}; keep one")

    def _store(self, values: Mapping[str, Any], line: int) -> None:
        kind, location = values["ObjectStore"], values["Location"]
        if location.startswith("/") is not (kind is StoreKind.EMBEDDED):
            wanted = "an absolute path" if kind is StoreKind.EMBEDDED else "a URL that begins with http:// or https://"
            self.refuse(line, f"Location={location}: must be {wanted} for ObjectStore={kind}")
        else:
            self._one("ObjectStore", ObjectStore(kind, location, values["Tiers"], values["Patience"]), line)

    def _values(self, record: Record, tokens: list[_Token]) -> Mapping[str, Any] | None:
        """What the line's keys hold, defaults filled in; None if anything was refused."""
        before = len(self.problems)
        values: dict[str, Any] = {}
        for token in tokens:
            name, sign, raw = token.text.partition("=")
            key = record.key(name)
            if not sign or key is None:
                what = "is no Key=Value" if not sign else "is an unknown key"
                self.refuse(token.line, f"`{token.text}` {what}; accepted here: {record.accepted}")
            elif key.name in values:
                self.refuse(token.line, f"{key.name} is given twice on one line; keep one")
            else:
                try:
                    values[key.name] = key.read(raw)
                except ValueError:
                    values[key.name] = None
                    self.refuse(token.line, f"{key.name}={raw}: must be {key.accepted}")
        for key in record.keys:
            if key.name in values:
                continue
            if key.default is None:
                self.refuse(tokens[0].line, f"{key.name}= is missing; it must be {key.accepted}")
            else:
                values[key.name] = key.read(key.default) if key.default else None
        return values if len(self.problems) == before else None

    def _datanodes(self, values: Mapping[str, Any], line: int) -> None:
        names, ports = values["NodeName"], values["Port"]
        addresses = values["NodeAddr"] or names
        if len(addresses) == 1 and len(ports) == len(names):
            addresses = addresses * len(names)
        if len(ports) == 1:
            ports = ports * len(names)
        for key, found in (("NodeAddr", addresses), ("Port", ports)):
            if len(found) != len(names):
                self.refuse(line, f"{key} has {len(found)} elements and NodeName {len(names)}; there must be as many")
                return
        volume_groups = self._volume_groups(values, line)
        if volume_groups is None:
            return
        for name, address, port in zip(names, addresses, ports, strict=True):
            self._datanode(Datanode(name, address, port, values["MemorySize"], values["Cores"], volume_groups), line)

    def _volume_groups(self, values: Mapping[str, Any], line: int) -> tuple[VolumeGroup, ...] | None:
        groups, backend = values["VolumeGroup"], values["Backend"]
        stripes = values["Stripes"] or [1] * len(groups)
        pools = values["ThinPool"] or [""] * len(groups)
        before = len(self.problems)
        for key, found in (("StorageSize", values["StorageSize"]), ("Stripes", stripes), ("ThinPool", pools)):
            if len(found) != len(groups):
                self.refuse(
                    line, f"{key} has {len(found)} elements and VolumeGroup {len(groups)}; there must be as many"
                )
                return None
        if values["StripeSize"] and max(stripes) == 1:
            self.refuse(line, f"StripeSize={values['StripeSize']} is for nothing: no volume group has Stripes above 1")
        if backend is Backend.FILE and (max(stripes) > 1 or any(pools)):
            self.refuse(line, "Stripes and ThinPool are for Backend=lvm; leave them out with Backend=file")
        layouts = []
        for group, count, pool in zip(groups, stripes, pools, strict=True):
            if pool and count > 1:
                self.refuse(
                    line, f"{group} has Stripes={count} and ThinPool={pool}; a pool has its own, leave Stripes 1"
                )
            layouts.append(Layout(count, (values["StripeSize"] or 0) if count > 1 else 0, pool))
        if len(self.problems) > before:
            return None
        return tuple(
            VolumeGroup(name, size, backend, layout)
            for name, size, layout in zip(groups, values["StorageSize"], layouts, strict=True)
        )

    def _datanode(self, node: Datanode, line: int) -> None:
        if node.name in self.nodes:
            first = self.nodes[node.name][1]
            self.refuse(line, f"datanode {node.name} is there twice, first on line {first}; keep one")
            return
        owner = self.endpoints.setdefault((node.address, node.port), node.name)
        if owner != node.name:
            self.refuse(
                line,
                f"datanode {node.name} has address {node.address} and port {node.port}, which are "
                f"{owner}'s (line {self.nodes[owner][1]}); give it an address or port of its own",
            )
            return
        self.nodes[node.name] = (node, line)

    def _flavor(self, values: Mapping[str, Any], line: int) -> None:
        flavor = Flavor(values["Flavor"], values["MemorySize"], values["Cores"], values["StorageSize"] or 0)
        # Names that differ in case alone would be mistaken for one another.
        first = self.flavors.setdefault(flavor.name.lower(), (flavor, line))
        if first[0] is not flavor:
            self.refuse(line, f"flavor {flavor.name} is there twice, first on line {first[1]}; keep one")

    def site(self) -> Site:
        """Raises DatanodesError with all problems found."""
        if not self.nodes and not self.problems:
            self.refuse(0, f"no datanode is named; there must be at least one line {NODE.accepted}")
        if self.problems:
            raise DatanodesError(self.problems)
        return Site(
            tuple(node for node, _ in self.nodes.values()),
            tuple(flavor for flavor, _ in self.flavors.values()),
            self.once.get("HealthChecker", (None, 0))[0],
            self.once.get("ObjectStore", (None, 0))[0],
        )


def parse(text: str, file: str = "datanodes.conf") -> Site:
    """Read the text of a datanodes.conf; file: its name in messages. Raises DatanodesError with every problem."""
    parser = _Parser(file)
    for tokens in _logical_lines(text):
        parser.take(tokens)
    return parser.site()


def load(path: Path) -> Site:
    """Read a datanodes.conf; the orchestrator calls it at start and on SIGHUP, where an error changes nothing.

    Raises DatanodesError, also when the file cannot be read.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise DatanodesError([Problem(str(path), 0, f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise DatanodesError([Problem(str(path), 0, f"is not UTF-8 text at byte {error.start}")]) from error
    return parse(text, str(path))


if __name__ == "__main__":
    import sys

    from ebb.datanodes_text import main

    sys.exit(main(sys.argv[1:]))
