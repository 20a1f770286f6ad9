"""From the command line to a request: looks at both sides, and refuses what cannot go well before anything is made."""

from __future__ import annotations

import os
import pwd
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ebb import sizes
from ebb.errors import UserError
from ebb.migrate import names
from ebb.migrate.pattern import matcher
from ebb.migrate.scan import Found, Kind, scan, storage_for, usable
from ebb.migrate.script import Buffer
from ebb.migrate.work import Request, Work


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `ebb migrate`. storage: bytes, None if not given."""

    storage: int | None
    nodes: int
    parallel: int
    replace: bool
    add: bool


@dataclass(frozen=True, slots=True)
class Migration:
    """What is to be submitted. Nothing of it is on disk yet."""

    work: Work
    request: Request
    buffer: Buffer
    summary: str


def work_base() -> Path:
    """Where the work directories of the calling user lie. Raises UserError if no buffer could be mounted there."""
    base = Path(pwd.getpwuid(os.getuid()).pw_dir, ".ebb", "migrate")
    names.check_word(str(base))
    return base


def prepare(words: Sequence[str], options: Options) -> Migration:
    """Decide which way data go, and check everything that can be known now. Raises UserError."""
    if os.getuid() == 0:
        raise UserError("root's buffers are not served: migrate as the user who shall own the dataset")
    if len(words) < 2:
        raise UserError("give SRC... DATASET to move in, or DATASET:PATTERN DIR to move out")
    split = names.split_pattern(words[0]) if len(words) == 2 and not os.path.lexists(words[0]) else None
    return _out(*split, words[1], options) if split else _in(words[:-1], names.dataset(words[-1]), options)


def _in(words: Sequence[str], dataset: names.Dataset, options: Options) -> Migration:
    sources = names.sources(words)
    _check_dataset(dataset, options)
    base = work_base()
    found = scan(sources, skip=[os.fsencode(base)])
    if found.unreadable:
        raise UserError(
            f"{len(found.unreadable)} entries cannot be read, such as `{os.fsdecode(found.unreadable[0])}`: "
            "make them readable or leave them out"
        )
    held = names.stored_size(dataset) if options.add and not dataset.hestia else 0
    storage = _storage(found, held, options)
    if options.add and not dataset.hestia and storage < names.image_size(dataset):
        raise UserError(
            f"-S {sizes.format_human(storage)} is smaller than `{dataset.path}`, which has "
            f"{sizes.format_human(names.image_size(dataset))}: a dataset does not shrink"
        )
    tag, work, name = _new(base)
    request = Request(
        name=name, dataset=dataset.word, dataset_path=dataset.path, pattern=None, target=dataset.path,
        sources=[(os.fsdecode(s.base), os.fsdecode(s.name)) for s in sources],
        nodes=options.nodes, parallel=options.parallel, storage=storage, replace=options.replace, add=options.add,
        before=f"{dataset.path}.before-{tag}" if dataset.exists and not dataset.hestia else None,
    )  # fmt: skip
    source = dataset.word if options.add else None
    buffer = Buffer(name, storage, str(work.mountpoint), data_src=source, data_dst=dataset.word)
    files = len(found.of(Kind.FILE, Kind.SYMLINK, Kind.LINK))
    return Migration(work, request, buffer, f"{sizes.format_human(found.size)} in {files} files to {dataset.word}")


def _check_dataset(dataset: names.Dataset, options: Options) -> None:
    if os.path.isdir(dataset.path) and not dataset.hestia:
        raise UserError(f"`{dataset.path}` is a directory: a dataset is a file, name one in it")
    if os.path.islink(dataset.path):
        raise UserError(f"`{dataset.path}` is a symbolic link: name the dataset itself")
    if dataset.exists and not (options.replace or options.add):
        raise UserError(f"`{dataset.path}` exists: give --add to keep what is in it, or --replace to begin anew")
    if options.add and not dataset.exists:
        raise UserError(f"`{dataset.path}` does not exist: leave --add out to make a new dataset")
    folder = os.path.dirname(dataset.path)
    if not os.path.isdir(folder):
        raise UserError(f"`{folder}` does not exist: make the dataset's directory first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"no permission to write in `{folder}`, where the dataset is to be")


def _storage(found: Found, held: int, options: Options) -> int:
    # With --replace some of what comes may be there already: how much, the job sees and checks again.
    need = max(found.need, held) if options.replace else found.need + held
    least = storage_for(need)
    what = f"{sizes.format_human(found.size)} in {len(found.entries)} entries"
    if held:
        what += f" and {sizes.format_human(held)} in the dataset"
    if options.storage is None:
        raise UserError(f"-S is missing: how large the dataset shall be; {what} need at least {least >> 20}MiB")
    if need > usable(options.storage):
        raise UserError(
            f"{what} need {sizes.format_human(need)}, but a buffer of "
            f"{sizes.format_human(options.storage)} has about {sizes.format_human(usable(options.storage))} for data: "
            f"give at least -S {least >> 20}MiB"
        )
    return options.storage


def _out(dataset: names.Dataset, pattern: bytes, directory: str, options: Options) -> Migration:
    if options.add:
        raise UserError("--add is for moving in; moving out always keeps what is in the directory")
    matcher(pattern)
    target = os.path.abspath(directory)
    if not os.path.isdir(target):
        raise UserError(f"`{directory}` is no directory: make it first")
    if not os.access(target, os.W_OK | os.X_OK):
        raise UserError(f"no permission to write in `{directory}`")
    if options.storage is None and dataset.hestia:
        raise UserError(
            f"-S is missing: the size of {dataset.word} is known to the object store only; give what it was made with"
        )
    storage = options.storage or names.image_size(dataset)
    _, work, name = _new(work_base())
    request = Request(
        name=name, dataset=dataset.word, dataset_path=dataset.path, pattern=os.fsdecode(pattern), target=target,
        sources=[], nodes=options.nodes, parallel=options.parallel, storage=storage, replace=options.replace, add=False,
    )  # fmt: skip
    buffer = Buffer(name, storage, str(work.mountpoint), data_src=dataset.word)
    return Migration(work, request, buffer, f"`{os.fsdecode(pattern) or '**'}` of {dataset.word} to {target}")


def _new(base: Path) -> tuple[str, Work, str]:
    tag = secrets.token_hex(4)
    name = f"migrate-{os.getuid()}-{tag}"
    return tag, Work(base / name), name
