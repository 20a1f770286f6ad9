"""What people read of datanodes.conf: the example file, its page in docs/, and the check of a file.

Runs as `ebb datanodes` and `python -m ebb.datanodes`; never imported by a daemon.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ebb.datanodes import DatanodesError, Site, load
from ebb.datanodes_schema import SCHEMA, SIZE, Key, Record
from ebb.layout import LINEAR
from ebb.model import Flavor, VolumeGroup
from ebb.sizes import ACCEPTED, format_human

_USAGE = "usage: python -m ebb.datanodes FILE | --example | --docs"

_INTRODUCTION = f"""# datanodes.conf

For administrators. `/etc/ebb/datanodes.conf` on the controller names the datanodes, what they offer to buffers, and the
flavors of SBB buffers. This page and `datanodes.conf.example` come from the parser's own table
(`python -m ebb.datanodes --docs`, `--example`).

Lines are `Key=Value` words with blanks between them. The case of keys is free, the order behind the first key too.
`#` begins a comment, a `\\` at the end of a line continues it. Hostlists expand in the order in which they are written.
Sizes: {ACCEPTED}.

Check a file before it is used; the exit status is 0 if it is good:

    ebb datanodes /etc/ebb/datanodes.conf

The orchestrator reads the file at its start and on SIGHUP (`systemctl reload ebb-orchestrator`). A file with an error
is refused as a whole: the log names file, line and reason of every error, and the running configuration stays."""


def example() -> str:
    """The text of datanodes.conf.example, which works as it is once names and sizes are the site's."""
    lines = [
        "# /etc/ebb/datanodes.conf: the datanodes, what they offer, and the flavors of SBB buffers.",
        "# Check it:  ebb datanodes /etc/ebb/datanodes.conf",
        "# Use it:    systemctl reload ebb-orchestrator (a bad file is refused and the running configuration stays)",
        f"# Sizes:     {ACCEPTED}.",
    ]
    for record in SCHEMA:
        lines += ["", f"# {record.about}", f"#   {record.accepted}", *record.example]
    return "\n".join(lines) + "\n"


def docs() -> str:
    """The text of docs/datanodes-conf.md."""
    parts = [_INTRODUCTION]
    for record in SCHEMA:
        parts += _record_docs(record)
    parts += ["## Example", "".join(f"    {line}\n" if line else "\n" for line in example().splitlines()).rstrip()]
    return "\n\n".join(parts) + "\n"


def _record_docs(record: Record) -> list[str]:
    rows = "\n".join(
        f"| `{key.name}` | {key.accepted.replace(SIZE, 'a size, not zero')} | {_default(key)} | {key.about} |"
        for key in record.keys
    )
    return [
        f"## {record.keys[0].name}",
        record.about,
        "| key | value | default | meaning |\n|---|---|---|---|\n" + rows,
    ]


def _default(key: Key) -> str:
    if key.default is None:
        return "mandatory"
    return f"`{key.default}`" if key.default else "none"


def table(site: Site) -> str:
    """What a good file says, for the eyes of who wrote it."""
    rows = [("DATANODE", "ADDRESS", "MEMORY", "CORES", "STORAGE")]
    for node in site.datanodes:
        groups = ", ".join(f"{group.name} ({_kind(group)}) {format_human(group.size)}" for group in node.volume_groups)
        rows.append((node.name, f"{node.address}:{node.port}", format_human(node.memory), str(node.cores), groups))
    flavors = [("FLAVOR", "MEMORY", "CORES", "STORAGE", "FITS ON")]
    for flavor in site.flavors:
        fits = f"{_fitting(site, flavor)} of {len(site.datanodes)} datanodes"
        storage = format_human(flavor.storage) if flavor.storage else "-"
        flavors.append((flavor.name, format_human(flavor.memory), str(flavor.cores), storage, fits))
    health = site.healthchecker or "none: services are not checked"
    return "\n".join([*_aligned(rows), "", *_aligned(flavors), "", f"HealthChecker: {health}"]) + "\n"


def _kind(group: VolumeGroup) -> str:
    return str(group.backend) if group.layout == LINEAR else f"{group.backend}, {group.layout}"


def _fitting(site: Site, flavor: Flavor) -> int:
    return sum(
        node.memory >= flavor.memory
        and node.cores >= flavor.cores
        and max(group.size for group in node.volume_groups) >= flavor.storage
        for node in site.datanodes
    )


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def main(argv: Sequence[str]) -> int:
    """The command line: 0 for a good file, 1 for a bad one, 2 for a wrong call."""
    match list(argv):
        case ["--example"]:
            sys.stdout.write(example())
        case ["--docs"]:
            sys.stdout.write(docs())
        case [file] if not file.startswith("-"):
            try:
                sys.stdout.write(table(load(Path(file))))
            except DatanodesError as error:
                # `python -m` runs ebb.datanodes a second time as __main__; the class is the imported one here.
                sys.stderr.write("".join(f"{problem}\n" for problem in error.problems))
                return 1
        case _:
            sys.stderr.write(_USAGE + "\n")
            return 2
    return 0
