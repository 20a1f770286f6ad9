"""`ebb dataset`: look into a dataset file, and check every byte of it. Needs neither the cluster nor root."""

from __future__ import annotations

import json
import os
import pwd
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from ebb import config, sizes
from ebb import dataset_objects as objects
from ebb.dataset import HEADER_SIZE, HOLE, DatasetHeader, WrongSeal, dataset_key
from ebb.dataset_check import damaged_chunks
from ebb.errors import EnvironmentFault, UserError, one_line
from ebb.extents import data_extents

WRONG = "WRONG: changed, or written by another site"
NOT_CHECKED = "not checked: the site key can be read on the cluster's nodes by root alone"


@click.group()
def dataset() -> None:
    """Look into a dataset file, or check every byte of it."""


_STORE = click.option("--store", help="Of a HESTIA@ dataset: the URL of Hestia's API, or the embedded store's folder.")


@dataset.command("info")
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
@_STORE
@click.pass_obj
def info(settings: Path, file: str, as_json: bool, store: str | None) -> None:
    """Tell what the header of FILE says: whose it is, how large, when it was saved; and whether the seal is right.

    FILE may name two objects (HESTIA@ may stand in front): then the header object is read.
    """
    path = objects.plain(file)
    with opened(path) as descriptor:
        pair = objects.pair_in(file, descriptor)
        if pair is not None:
            front = objects.header_bytes(objects.reader_of(str(path), pair, store, settings), pair)
            header, seal = _sealed(f"object {pair.header}", front, settings)
            told = _told(path, header, dict(objects.told(pair, header)), seal)
        else:
            header, seal = _header(path, descriptor, settings)
            told = _told(path, header, _length(descriptor, header), seal)
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    for key, value in told.items():
        click.echo(f"{key.replace('_', ' ') + ':':18} {value}")
    if pair is None:
        click.echo(f"{'to look inside:':18} mount -o loop,offset=1MiB,ro,norecovery {file} DIRECTORY   (as root)")


@dataset.command("verify")
@click.argument("file")
@click.option("--threads", default=4, show_default=True, type=click.IntRange(1, 64), help="How many read at a time.")
@_STORE
@click.pass_obj
def verify(settings: Path, file: str, threads: int, store: str | None) -> None:
    """Compare every byte of FILE, or of the objects that it names, with the digests in its header.

    Exit status 0: it is whole; 1: it is not.
    """
    path, begun = objects.plain(file), time.monotonic()
    with opened(path) as descriptor:
        pair = objects.pair_in(file, descriptor)
        if pair is not None:
            reader = objects.reader_of(str(path), pair, store, settings)
            header, seal = _sealed(f"object {pair.header}", objects.header_bytes(reader, pair), settings)
            _refuse_wrong(path, seal)
            try:
                objects.check_data(reader, pair, header)
            except UserError as error:
                raise UserError(f"{path}: {error.text}; restore it from a copy") from error
        else:
            header, seal = _header(path, descriptor, settings)
            _verify_file(path, descriptor, header, seal, threads)
    click.echo(
        f"{path}: whole; {len(header.digests)} chunks of {sizes.format_human(header.chunk_size)} are what was saved, "
        f"{time.monotonic() - begun:.1f} s; seal {seal}"
    )


def _verify_file(file: Path, descriptor: int, header: DatasetHeader, seal: str, threads: int) -> None:
    length, whole = os.fstat(descriptor).st_size, HEADER_SIZE + header.image_size
    if length < whole:
        raise UserError(f"{file} is cut short: {length} bytes of {whole}; restore it from a copy")
    _refuse_wrong(file, seal)
    try:
        damaged = damaged_chunks(descriptor, header, threads)
    except OSError as error:
        raise EnvironmentFault(f"{file} cannot be read: {error.strerror}") from error
    if damaged:
        first = HEADER_SIZE + damaged[0] * header.chunk_size
        raise UserError(
            f"{file} is damaged: {len(damaged)} of {len(header.digests)} chunks are not what was saved, the first at "
            f"byte {first}; restore it from a copy"
        )


def _refuse_wrong(file: Path, seal: str) -> None:
    if seal == WRONG:
        raise UserError(f"{file}: its header is not what this site wrote, or another site wrote it")


@contextmanager
def opened(file: Path) -> Iterator[int]:
    """A regular file for reading. Raises UserError for what is none, or cannot be opened."""
    try:
        # O_NONBLOCK: a FIFO must not be waited for.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"{file} cannot be opened: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UserError(f"{file} is no regular file: a dataset is one")
        yield descriptor
    finally:
        os.close(descriptor)


def _header(file: Path, descriptor: int, settings: Path) -> tuple[DatasetHeader, str]:
    """The header, and in words what is known of its seal."""
    try:
        front = os.pread(descriptor, HEADER_SIZE, 0)
    except OSError as error:
        raise EnvironmentFault(f"{file} cannot be read: {error.strerror}") from error
    return _sealed(str(file), front, settings)


def _sealed(what: str, front: bytes, settings: Path) -> tuple[DatasetHeader, str]:
    try:
        header = DatasetHeader.unsealed(front)
        try:
            DatasetHeader.unpack(front, dataset_key(config.load(settings).site_key_path.read_bytes()))
        except OSError:
            return header, NOT_CHECKED
        except WrongSeal:
            return header, WRONG
        return header, "right: written by this site and not changed"
    except UserError as error:
        raise UserError(f"{what} {error.text}") from error


def _length(descriptor: int, header: DatasetHeader) -> dict[str, object]:
    size, whole = os.fstat(descriptor).st_size, HEADER_SIZE + header.image_size
    held = sum(stop - begin for begin, stop in data_extents(descriptor, 0, size))
    return {
        "length": f"{size} bytes" + ("" if size >= whole else f", CUT SHORT: {whole} are needed"),
        "on_disk": sizes.format_human(held),
    }


def _told(file: Path, header: DatasetHeader, where: Mapping[str, object], seal: str) -> dict[str, object]:
    return {
        "file": str(file),
        "format": 1,
        "image": f"{header.image_size} bytes ({sizes.format_human(header.image_size)}): StorageSize",
        **where,
        "file_system": f"XFS, UUID {header.filesystem}",
        "chunks": f"{len(header.digests)} of {sizes.format_human(header.chunk_size)}, "
        f"{sum(digest != HOLE for digest in header.digests)} with data",
        "saved": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(header.created)),
        "owner": f"uid {header.uid}{_name(header.uid)}, gid {header.gid}",
        **{f"note_{one_line(key)}": one_line(str(value)) for key, value in sorted(header.notes.items())},
        "seal": seal,
    }


def _name(uid: int) -> str:
    try:
        return f" ({pwd.getpwuid(uid).pw_name})"
    except KeyError:
        return ""
