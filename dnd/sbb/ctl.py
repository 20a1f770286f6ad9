"""`sbbdctl`: on a datanode, look at SBB servers, have them drain, stop them. root sees all, a user their own."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from dnd.sbb import control
from dnd.sbb.server import read_text
from ebb import config
from ebb.errors import EbbError, EnvironmentFault, UserError
from ebb.sizes import format_human

_FLUSH_SECONDS = 24 * 3600.0


class _Group(click.Group):
    """Turns Ebb's errors into one line and an exit code: 1 the user's, 2 the environment's, 3 a defect."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EbbError as error:
            click.echo(f"sbbdctl: {error.text}", err=True)
            ctx.exit({"user": 1, "environment": 2}.get(error.kind, 3))


@dataclass(frozen=True, slots=True)
class Found:
    """A server of this node: its buffer's sid, its owner, the datanode (several can share a host), its settings."""

    sid: str
    uid: int
    datanode: str
    settings: dict[str, tuple[str, ...]]

    def ask(self, request: str, timeout: float = 10.0) -> dict[str, Any]:
        """One question to it. Raises EnvironmentFault."""
        path = Path(self.settings["control"][0])
        most = control.LONG_ANSWER if os.geteuid() == 0 else control.OWNERS_ANSWER
        return control.ask(path, self.uid, request, timeout=timeout, most=most)


@click.group(cls=_Group)
@click.option("--config", "path", type=click.Path(path_type=Path), default=config.DEFAULT_PATH, show_default=True)
@click.pass_context
def main(ctx: click.Context, path: Path) -> None:
    """Look at this datanode's SBB servers, have them drain, stop them."""
    ctx.obj = config.load(path).run_dir


@main.command("list")
@click.pass_obj
def list_servers(run_dir: Path) -> None:
    """One line for each server."""
    servers = _servers(run_dir)
    for server in servers:
        click.echo(f"{server.sid}  {server.datanode}  uid {server.uid}  {_summary(server)}")
    if not servers:
        click.echo("no servers" if os.geteuid() == 0 else "no servers of yours")


@main.command("inspect")
@click.argument("sid")
@click.pass_obj
def inspect(run_dir: Path, sid: str) -> None:
    """All that the servers of buffer SID say of themselves, and the files that they have not drained or have lost, as
    JSON.
    """
    shown = []
    for server in _named(run_dir, sid):
        status, names = server.ask("status"), _names(server)
        shown.append(
            {
                "sid": server.sid,
                "datanode": server.datanode,
                "uid": server.uid,
                "targets": server.settings["target"],
                "status": {**status, "lost": names.get("lost", status.get("lost", []))},
                "files": names.get("files", []),
            }
        )
    click.echo(json.dumps(shown, indent=2))


def _names(server: Found) -> dict[str, Any]:
    try:
        return server.ask("list", timeout=60)
    except EnvironmentFault as error:
        click.echo(f"sbbdctl: {server.sid} on {server.datanode}: files are not named: {error.text}", err=True)
        return {}


@main.command("flush")
@click.argument("sid")
@click.argument("file", required=False)
@click.pass_obj
def flush(run_dir: Path, sid: str, file: str | None) -> None:
    """Have buffer SID write FILE, or everything, to its targets; returns when it is there.

    A file is spread over the servers of a buffer: this flushes what is on this datanode.
    """
    failed = []
    for server in _named(run_dir, sid):
        answer = server.ask(f"flush {os.path.abspath(file)}" if file else "flush", timeout=_FLUSH_SECONDS)
        if answer.get("ok") is False:
            errors = control.status(Path(server.settings["control"][0]), server.uid).errors
            failed.append(f"{server.datanode}: {control.listed(errors) or 'not everything could be written'}")
    if failed:
        raise UserError(f"{sid} is not flushed: " + "; ".join(failed))


@main.command("stop")
@click.argument("sid")
@click.option("--discard", is_flag=True, help="Stop also with data that is nowhere else, and drop it.")
@click.pass_obj
def stop(run_dir: Path, sid: str, discard: bool) -> None:
    """Stop the server of buffer SID. As long as the buffer lives dnd starts it again."""
    for server in _named(run_dir, sid):
        server.ask("stop discard" if discard else "stop")
        click.echo(f"{sid} on {server.datanode}: stopped")


def _servers(run_dir: Path) -> list[Found]:
    """Those whose settings the caller may read: all for root, their own for others."""
    found = []
    for file in sorted(run_dir.glob("*/sbb/*/sbbd.conf")):
        try:
            uid, settings = file.stat().st_uid, read_text(file.read_text())
            found.append(Found(settings["sid"][0], uid, file.parts[-4], settings))
        except (OSError, KeyError):
            continue
    return found


def _named(run_dir: Path, sid: str) -> list[Found]:
    found = [server for server in _servers(run_dir) if server.sid == sid]
    if not found:
        raise UserError(
            f"no server of a buffer {sid} that you may see on this node; `sbbdctl list` shows what there is"
        )
    return found


def _summary(server: Found) -> str:
    try:
        status = control.status(Path(server.settings["control"][0]), server.uid, timeout=5)
    except EbbError as error:
        return error.text
    text = f"{status.state}  {status.clients} clients  {format_human(status.dirty)} to drain"
    return text + (f"  cannot drain {control.listed(status.errors)}" if status.errors else "")


if __name__ == "__main__":
    main()
