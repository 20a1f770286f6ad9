"""`pshcservcheck`: what dnd calls with each create, use and destroy, and cron for everything."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from ebb.errors import EbbError, UserError
from healthchecker import report
from healthchecker.database import Database
from healthchecker.service import IN_USE, STAGED_IN, STAGING_OUT, Flash, Level, Service

FOLDER = Path("/var/lib/ebb")
NAME = "health.json"
BROKEN = 3
"""The program itself could not do what was asked: says nothing about any service."""

F = TypeVar("F", bound=Callable[..., Any])


class _Group(click.Group):
    """A wrong call and a database that fails end with a code of their own: 1 and 2 tell of services."""

    def main(self, *args: Any, **more: Any) -> Any:
        more["standalone_mode"] = False
        try:
            code = super().main(*args, **more)
        except click.exceptions.Exit as ended:
            code = ended.exit_code
        except click.Abort:
            code = BROKEN
        except click.ClickException as error:
            error.show()
            code = BROKEN
        except (EbbError, OSError) as error:
            click.echo(f"pshcservcheck: {error}", err=True)
            code = BROKEN
        sys.exit(code or 0)


@click.group(cls=_Group)
@click.option(
    "--database",
    type=click.Path(path_type=Path),
    help=f"The file. [to change: {FOLDER}/{NAME}; to check: that and {FOLDER}/*/{NAME}]",
)
@click.pass_context
def main(ctx: click.Context, database: Path | None) -> None:
    """Keep this datanode's list of services, and check them.

    Exit codes: 0 OK, 1 warning, 2 failed, 3 this program could not work.
    """
    ctx.obj = database


def _described(command: F) -> F:
    """The options that say what a service consists of."""
    for option in (
        click.option("--uid", type=int, help="The owner."),
        click.option("--gid", type=int, help="The owner's group."),
        click.option("--mode", help="The type of service, such as gbf."),
        click.option("--name", help="The buffer's name."),
        click.option(
            "--flash",
            type=(str, str, str, int),
            multiple=True,
            metavar="LV VG MOUNTPOINT MIB",
            help="A volume: name, volume group (or the folder of volumes that are files), mountpoint, size in MiB.",
        ),
        click.option("--daemon", type=int, multiple=True, metavar="PID", help="A process of the service."),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("sid")
@_described
@click.pass_obj
def create(database: Path | None, /, sid: str, **description: Any) -> int:
    """Register a service, or describe it anew; nobody uses it."""
    return _register(database, sid, STAGED_IN, description)


@main.command()
@click.argument("sid")
@_described
@click.pass_obj
def use(database: Path | None, /, sid: str, **description: Any) -> int:
    """Note that a service is in use; with a description as in create it is described anew."""
    return _register(database, sid, IN_USE, description)


@main.command()
@click.argument("sid")
@click.option("--begin", is_flag=True, help="It only begins: until the end nothing is checked.")
@click.pass_obj
def destroy(database: Path | None, sid: str, begin: bool) -> int:
    """Take a service off the list. No error if it is not on it."""
    file = _file(database)
    with file.change() as services:
        if begin and sid in services:
            services[sid] = replace(services[sid], state=STAGING_OUT)
        elif not begin:
            services.pop(sid, None)
    return _warned(file)


@main.command()
@click.argument("sids", nargs=-1, metavar="[SID]...")
@click.pass_obj
def retain(database: Path | None, sids: tuple[str, ...]) -> int:
    """Take all services off the list but those named: for whoever knows which there are."""
    file = _file(database)
    with file.change() as services:
        for sid in set(services) - set(sids):
            del services[sid]
    return _warned(file)


@main.command()
@click.argument("sid", metavar="SID|all")
@click.option("-v", "--verbose", is_flag=True, help="Say what is well too.")
@click.option("--gone", is_flag=True, help="The service has ended: see that nothing is left of it.")
@click.option("--tolerate-full", is_flag=True, help="A full volume is a warning: who reads can go on.")
@click.pass_obj
def check(database: Path | None, sid: str, verbose: bool, gone: bool, tolerate_full: bool) -> int:
    """Check one service, or all. Silent if all is well."""
    found, code = False, 0
    for path in [database] if database else _databases():
        file = Database(path)
        services = [service for service in file.read() if sid in ("all", service.sid)]
        lines = report.check(services, gone=gone, tolerate_full=tolerate_full)
        report.record(file, lines)
        for service in services:
            found = True
            for line in lines[service.sid]:
                if line.level or verbose:
                    click.echo(report.told(service, line), err=line.level > Level.OK)
        code = max(code, report.worst(lines), _warned(file))
    if not found and sid != "all" and not gone:
        click.echo(f"pshcservcheck: no service {sid} is registered here; `create` registers one", err=True)
        return BROKEN
    if not found and verbose:
        click.echo("no service is registered here")
    return code


def _databases() -> list[Path]:
    return [path for path in (FOLDER / NAME, *sorted(FOLDER.glob(f"*/{NAME}"))) if path.exists()]


def _file(database: Path | None) -> Database:
    return Database(database or FOLDER / NAME)


def _warned(file: Database) -> int:
    for warning in file.warnings:
        click.echo(f"WARNING: pshcservcheck: {warning}", err=True)
    return int(bool(file.warnings))


def _register(database: Path | None, sid: str, state: str, description: dict[str, Any]) -> int:
    file = _file(database)
    with file.change() as services:
        before = services.get(sid)
        if any(value not in (None, ()) for value in description.values()):
            after = _service(sid, description)
        elif before is None:
            raise UserError(f"no service {sid} is in {file.path}: describe it (--uid, --gid, --mode, --name, --flash)")
        else:
            after = before
        if before is not None:  # what the last check found stands until the next
            after = replace(after, check_date=before.check_date, check_results=before.check_results)
        services[sid] = replace(after, state=state)
    return _warned(file)


def _service(sid: str, given: dict[str, Any]) -> Service:
    missing = [name for name in ("uid", "gid", "mode", "name") if given[name] is None]
    if missing:
        raise UserError(f"service {sid}: {', '.join(f'--{name}' for name in missing)} is missing")
    flash = tuple(Flash(*each) for each in given["flash"])
    return Service(sid, given["uid"], given["gid"], given["mode"], given["name"], flash, tuple(given["daemon"]))
