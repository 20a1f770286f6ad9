"""Reading `scontrol show bbstat` as the programs around Slurm do."""

import re
from dataclasses import dataclass
from datetime import datetime

_FIELD = re.compile(r'(\w+)=("[^"]*"|\S*)')
_TOTAL = re.compile(r"^FA: (Total|Used|Free) (storage|memory) : (\d+)([KMGTPE]?)(i?)(B?)$")
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}


@dataclass(frozen=True)
class Buffer:
    """One line `FA: BB ...`; sizes in bytes, None once they are left out."""

    type: str
    bbid: int
    name: str
    state: str
    created: datetime
    memory: int | None
    storage: int | None
    user: str
    reason: str


@dataclass(frozen=True)
class BBStat:
    """The whole answer; totals in bytes by words such as `used storage`."""

    buffers: list[Buffer]
    totals: dict[str, int]

    def buffer(self, name: str) -> Buffer | None:
        """The buffer of that name: the newest that is not over if there are several; None if there is none."""
        found = [b for b in self.buffers if b.name == name]
        return next((b for b in reversed(found) if b.state != "staged-out"), found[-1] if found else None)

    def state(self, name: str) -> str | None:
        """State of the buffer of that name, None if there is none."""
        found = self.buffer(name)
        return found.state if found else None


def parse(text: str) -> BBStat:
    """Read the whole output. Raises ValueError for a line that is neither a buffer nor a total."""
    buffers, totals = [], {}
    for line in text.splitlines():
        if line.startswith("FA: BB "):
            buffers.append(_buffer(line))
        elif match := _TOTAL.match(line):
            which, what, number, prefix, binary, _ = match.groups()
            totals[f"{which.lower()} {what}"] = int(number) * (1024 if binary else 1000) ** _POWERS[prefix]
        elif line.strip():
            raise ValueError(f"not a line of bbstat: {line}")
    return BBStat(buffers, totals)


def _buffer(line: str) -> Buffer:
    fields = {key: value.strip('"') for key, value in _FIELD.findall(line)}

    def size(key: str) -> int | None:
        return int(fields[key]) if key in fields else None

    try:
        return Buffer(
            type=fields["Type"], bbid=int(fields["bbid"]), name=fields["Name"], state=fields["State"],
            created=datetime.fromisoformat(fields["CreateTime"]), memory=size("Memory"), storage=size("StorageSize"),
            user=fields["UserId"], reason=fields["Reason"],
        )  # fmt: skip
    except KeyError as error:
        raise ValueError(f"no {error.args[0]}= in: {line}") from error
