"""`ebb migrate`: the command line of moving data into a dataset and out again."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import click

import ebb
from ebb import sizes
from ebb.errors import EnvironmentFault, NotFound, UserError, printable
from ebb.migrate import report, script, slurm
from ebb.migrate.follow import Follower, Left, Screen
from ebb.migrate.prepare import Migration, Options, prepare, work_base
from ebb.migrate.work import Request, Work

_KEPT = 7 * 86400.0
"""Seconds."""


class _Size(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases only
    name = "SIZE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else sizes.parse(str(value))
        except ValueError as error:
            self.fail(f"{value!r}: accepted: {error}", param, ctx)


@click.command("migrate", short_help="Move data into a dataset, or out of it, by a Slurm job.")
@click.argument("words", nargs=-1, metavar="SRC... [HESTIA@]DATASET | [HESTIA@]DATASET:PATTERN DIR")
@click.option("-S", "--storage-size", "storage", type=_Size(), help="StorageSize of the dataset, such as 20GiB.")
@click.option("-N", "--nodes", type=click.IntRange(1), default=1, show_default=True, help="Nodes that copy.")
@click.option(
    "-j", "--parallel", type=click.IntRange(1, 64), default=4, show_default=True,
    help="Copies at a time on each node, a CPU each.",
)  # fmt: skip
@click.option("--add", is_flag=True, help="DATASET exists: keep what is in it.")
@click.option(
    "--replace", "overwrite", is_flag=True, help="DATASET exists: begin anew; with --add, and out: overwrite files."
)
@click.option("--no-wait", is_flag=True, help="Return when the job is submitted.")
@click.option("--attach", type=click.IntRange(1), metavar="JOBID", help="Watch a migration that was submitted before.")
@click.option(
    "--sbatch", "more", multiple=True, metavar="OPTION", help="An option for sbatch, such as --sbatch=--time=2:00:00."
)
def migrate(
    words: tuple[str, ...], storage: int | None, nodes: int, parallel: int, add: bool, overwrite: bool, no_wait: bool,
    attach: int | None, more: tuple[str, ...],
) -> None:  # fmt: skip
    """Move data into a dataset, or out of it, by one Slurm job of yours.

    In: each SRC becomes a file or directory of that name in DATASET; of `SRC/` only what is in it. Out: what matches
    PATTERN (relative to the dataset's root; `**` for any directories) is copied into DIR.

    Everything is read back and compared with its source; exit status 1 and a list if something differs.
    """
    slurm.require()
    if attach is not None:
        if words:
            raise UserError("--attach watches a job that has its words already: give none")
        watch(*_earlier(attach))
        return
    options = Options(storage=storage, nodes=nodes, parallel=parallel, replace=overwrite, add=add)
    migration = prepare(words, options)
    request = submit(migration, more, alone=no_wait)
    means = f"a buffer of {sizes.format_human(request.storage)}, {nodes} node{'s' * (nodes > 1)}"
    click.echo(f"ebb: job {request.job}: {printable(migration.summary)}; {means}", err=True)
    if no_wait:
        click.echo(f"ebb: watch it with: ebb migrate --attach {request.job}", err=True)
        click.echo(request.job)
        return
    watch(migration.work, request)


def submit(migration: Migration, more: tuple[str, ...], *, alone: bool) -> Request:
    """Write the request and submit its job. If that fails nothing is left. Raises UserError, EnvironmentFault."""
    work, request = migration.work, replace(migration.request, alone=alone)
    library = str(Path(ebb.__file__).resolve().parents[1])
    text = script.text(migration.buffer, sys.executable, library, str(work.path))
    try:
        _sweep(work.path.parent)
        work.make()
        work.put_request(request)
        if request.before:
            os.link(request.dataset_path, request.before)
        job = slurm.submit(text, _options(request, work, more))
    except (slurm.Refused, OSError) as error:
        _undo(work, request)
        if isinstance(error, OSError):
            raise EnvironmentFault(f"`{error.filename or work.path}` cannot be made: {error.strerror}") from error
        click.echo(error.said, err=True)
        raise
    # From here on the job has the directory: whatever fails, it stays.
    request = replace(request, job=job)
    work.put_request(request)
    return request


def _sweep(base: Path) -> None:
    """Remove what migrations left that ended well long ago and were not watched to their end."""
    for result in base.glob("migrate-*/result.json"):
        done = Work(result.parent).get(result.name)
        if done and done.get("ok") and time.time() - result.stat().st_mtime > _KEPT:
            shutil.rmtree(result.parent, ignore_errors=True)


def _options(request: Request, work: Work, more: tuple[str, ...]) -> list[str]:
    return [
        "--job-name=ebb-migrate", f"--nodes={request.nodes}", f"--ntasks={request.nodes}", "--ntasks-per-node=1",
        f"--cpus-per-task={request.parallel}", "--no-requeue", f"--output={work.log}", f"--chdir={work.path}", *more,
    ]  # fmt: skip


def _undo(work: Work, request: Request) -> None:
    for path in (request.before,) if request.before else ():
        if os.path.lexists(path) and os.path.samefile(path, request.dataset_path):
            os.unlink(path)
    for folder in ("mnt", "parts", "progress"):
        if (work.path / folder).is_dir():
            (work.path / folder).rmdir()
    if work.path.is_dir():
        for file in work.path.iterdir():
            file.unlink()
        work.path.rmdir()


def watch(work: Work, request: Request) -> None:
    """Follow the job to its end and say how it went. Raises what `report.finish` raises."""
    follower = Follower(work, request, Screen())
    try:
        job, buffer = follower.run()
    except Left:
        if follower.cancelled:
            raise UserError(
                f"job {request.job} is cancelled, but its buffer has not ended yet: ebb migrate --attach {request.job} "
                "puts things right when it has"
            ) from None
        click.echo(f"ebb: job {request.job} goes on; ebb migrate --attach {request.job} watches it again", err=True)
        return
    report.finish(work, request, job, buffer, held=follower.held, cancelled=follower.cancelled)


def _earlier(job: int) -> tuple[Work, Request]:
    for folder in work_base().glob("migrate-*"):
        try:
            request = Work(folder).request()
        except (OSError, ValueError, TypeError, KeyError):
            continue
        if request.job == job:
            return Work(folder), request
    raise NotFound(f"job {job} is no migration of yours, or it has ended well and was watched to its end")
