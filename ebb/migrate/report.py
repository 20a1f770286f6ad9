"""How a migration ended: the table, what differs, what is left where."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import Any

import click

from ebb import sizes
from ebb.errors import EbbError, EnvironmentFault, UserError, printable
from ebb.migrate import slurm
from ebb.migrate.meter import duration
from ebb.migrate.work import Request, Work

_MOST = 20


def finish(
    work: Work,
    request: Request,
    job: slurm.Stand | None,
    buffer: slurm.Stand | None,
    *,
    held: str | None,
    cancelled: bool,
) -> None:
    """Print the result, put an incomplete dataset aside, and remove the work directory if all is well.

    Called when job and buffer have ended. Raises UserError or EnvironmentFault if not everything is where it shall be.
    """
    result = work.get("result.json")
    if result is not None and "counts" in result:
        for line in table(result):
            click.echo(line)
    error = _failure(work, request, result, job, buffer, held=held, cancelled=cancelled)
    if error is None:
        if request.before:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(request.before)
        shutil.rmtree(work.path, ignore_errors=True)
        place = request.target if request.outwards else request.dataset
        click.echo(
            f"ebb: done: everything is in {printable(place)}, verified" + ("" if request.outwards else " and saved")
        )
        return
    if result is not None:
        for line in differences(result):
            click.echo(line, err=True)
    for line in leftovers(request, work, not_saved=buffer is not None and buffer.state == "teardown" and not held):
        click.echo(f"ebb: {line}", err=True)
    raise error


def _failure(
    work: Work, request: Request, result: dict[str, Any] | None, job: slurm.Stand | None, buffer: slurm.Stand | None,
    *, held: str | None, cancelled: bool,
) -> EbbError | None:  # fmt: skip
    if held:
        return UserError(held.removeprefix("burst_buffer/lua: "))
    if result is None and cancelled:
        return UserError(f"job {request.job} was cancelled")
    if result is None:
        state = job.state if job else "gone"
        return EnvironmentFault(f"job {request.job} ended as {state} before it had a result{_last_words(work)}")
    if "error" in result:
        return UserError(result["error"])
    if not result["ok"]:
        return UserError(f"not as they shall be: {len(result['wrong'])} entries, see above")
    if request.outwards:
        return None
    if buffer is not None and buffer.state == "teardown":
        return EnvironmentFault(f"all is copied and verified, but not saved: {buffer.reason}")
    if not _is_saved(request):
        return EnvironmentFault(
            f"all is copied and verified, but {printable(request.dataset)} was not saved: was the buffer dropped? "
            "ask your administrator"
        )
    return None


def _is_saved(request: Request) -> bool:
    """Whether there is a dataset that is not the old one."""
    if not os.path.exists(request.dataset_path):
        return False
    before = request.before
    return not (before and os.path.lexists(before) and os.path.samefile(before, request.dataset_path))


def _last_words(work: Work) -> str:
    try:
        lines = [line for line in work.log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return f": {lines[-1]}" if lines else ""


def table(result: dict[str, Any]) -> list[str]:
    """What was copied and verified, a line a kind."""
    counts, (copied, verified) = result["counts"], result["seconds"]
    wrong = [verdict for verdict, _, _ in result["wrong"]]
    rows = [
        ("files", f"{counts['file']}", f"{sizes.format_human(result['size'])} copied in {duration(copied)}"),
        ("", "", f"{sizes.format_human(result['bytes'])} verified in {duration(verified)}, BLAKE3 of both sides"),
        ("directories", f"{counts['directory']}", ""),
        ("symbolic links", f"{counts['symlink']}", ""),
        ("hard links", f"{counts['link']}", "further names of files"),
        ("differ", f"{wrong.count('differs')}", ""),
        ("changed", f"{wrong.count('changed')}", "in the source, while it was copied"),
    ]
    if result["special"]:
        rows.append(("left out", f"{len(result['special'])}", f"no files: such as {printable(result['special'][0])}"))
    if result["bare"]:
        rows.append(("attributes", f"{result['bare']}", "files lost extended attributes: the mount takes none"))
    return [f"{name:15}{count:>10}  {more}".rstrip() for name, count, more in rows]


def differences(result: dict[str, Any]) -> list[str]:
    """The entries that are not as they shall be."""
    wrong = result.get("wrong", [])
    lines = [f"{verdict}: {printable(path)}: {why}" for verdict, path, why in wrong[:_MOST]]
    return lines + ([f"and {len(wrong) - _MOST} more, see result.json"] if len(wrong) > _MOST else [])


def leftovers(request: Request, work: Work, *, not_saved: bool) -> list[str]:
    """Put things right after a migration that failed, and say where what is. A second call changes nothing more."""
    # Before the first phase of copying nothing of the sources is in the buffer.
    copied = (work.get("plan.json") or {}).get("phase") != "scan"
    lines = [f"what the job printed: {printable(str(work.log))}"] if work.log.exists() else []
    if request.outwards:
        return [f"what was copied until then is in {printable(request.target)}", *lines] if copied else lines
    if not_saved:
        return [f"the buffer {request.name} keeps the data: see scontrol show bbstat", *lines]
    path = request.dataset_path
    if request.dataset != path:
        return [f"{request.dataset} may hold a part of the files only: look before you use it", *lines]
    aside = f"{path}.incomplete-{request.name.rpartition('-')[2]}"
    untouched = f"{printable(path)} is as it was before"
    if request.before and os.path.lexists(request.before):
        if os.path.exists(path) and os.path.samefile(path, request.before):
            os.unlink(request.before)
            return [untouched, *lines]
        partly = copied and os.path.lexists(path)
        if partly:
            os.rename(path, aside)
        os.rename(request.before, path)
        return [untouched, *([_partial(aside)] if partly else []), *lines]
    if request.before is None and os.path.lexists(path):
        if copied:
            os.rename(path, aside)
            return [_partial(aside), *lines]
        os.unlink(path)
    return [f"no dataset {printable(path)} was made" if request.before is None else untouched, *lines]


def _partial(aside: str) -> str:
    return (
        f"what was copied until then is the dataset {printable(aside)}: "
        "remove it, rename it, or go on with it (--add --replace)"
    )
