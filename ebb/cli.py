"""`ebb`: what owners and operators type when a script is not the right tool, and what an administrator sets up once."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ebb import config, datanodes, datanodes_text, log, mounts, sizes
from ebb.dataset_cli import dataset
from ebb.errors import EbbError, EnvironmentFault, UserError
from ebb.migrate.command import migrate

KEY_BYTES = 32
FLUSH_ATTRIBUTE = "user.ebb.flush"


class _Group(click.Group):
    """Turns Ebb's errors into one line and an exit code: 1 the user's, 2 the environment's, 3 a defect."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EbbError as error:
            click.echo(f"ebb: {error.text}", err=True)
            ctx.exit({"user": 1, "environment": 2}.get(error.kind, 3))


@click.group(cls=_Group)
@click.option("--config", "path", type=click.Path(path_type=Path), default=config.DEFAULT_PATH, show_default=True)
@click.pass_context
def main(ctx: click.Context, path: Path) -> None:
    """Look at burst buffers, end them, move data into datasets and out, and set up a site."""
    ctx.obj = path


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@click.pass_obj
def list_buffers(path: Path, as_json: bool) -> None:
    """Show the live buffers and where they are."""
    buffers = _ask(path, "list_buffers", {})["buffers"]
    if as_json:
        click.echo(json.dumps(buffers, indent=2))
        return
    for buffer in buffers:
        created = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(buffer["create_time"]))
        click.echo(
            f"{buffer['name']}  {buffer['type']}  bbid {buffer['bbid']}  {buffer['state']}  {buffer['user']}  "
            f"{sizes.format_human(buffer['storage'])}  on {','.join(buffer['datanodes']) or '-'}  "
            f"jobs {','.join(map(str, buffer['jobs'])) or '-'}  since {created}\n    {buffer['reason']}"
        )
    if not buffers:
        click.echo("no buffers")


@main.command("destroy")
@click.argument("name")
@click.option("--discard", is_flag=True, help="Drop the data instead of saving them to data_dst.")
@click.pass_obj
def destroy(path: Path, name: str, discard: bool) -> None:
    """End the buffer NAME: its data are saved to its data_dst, then its resources are released."""
    answer = _ask(path, "destroy_persistent", {"name": name, "discard": discard})
    click.echo(f"{name}: {answer['buffer_state']}: {answer['reason']}")


@main.command("release")
@click.argument("datanode")
@click.argument("sid")
@click.option("--discard", is_flag=True, help="Drop the data instead of saving them to the service's data_dst.")
@click.pass_obj
def release(path: Path, datanode: str, sid: str, discard: bool) -> None:
    """Operators: end the service SID on DATANODE that belongs to no buffer (the log names such)."""
    answer = _ask(path, "release", {"datanode": datanode, "sid": sid, "discard": discard})
    click.echo(f"{sid} on {datanode}: {answer['phase']}{': ' + answer['error'] if answer['error'] else ''}")


@main.command("flush")
@click.argument("files", nargs=-1, required=True, type=click.Path())
def flush(files: tuple[str, ...]) -> None:
    """In a job that uses an SBB: write FILES to the target file system now; returns when they are there."""
    failed, devices = [], _sbb_devices()
    for file in files:
        try:
            if os.stat(file).st_dev in devices:
                os.setxattr(file, FLUSH_ATTRIBUTE, b"now")
            else:
                failed.append(f"{file} lies in no target of an SBB that this job uses")
        except OSError as error:
            failed.append(f"{file} is not flushed: {error.strerror}")
    if failed:
        raise UserError("; ".join(failed))


def _sbb_devices() -> set[int]:
    """Device numbers of the SBB mounts that this process sees; any other file system would take the attribute too."""
    numbers = [mount.device.partition(":") for mount in mounts.table() if mount.filesystem == "fuse.sbb"]
    return {os.makedev(int(major), int(minor)) for major, _, minor in numbers}


@main.command("datanodes")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.pass_obj
def show_datanodes(path: Path, file: Path | None) -> None:
    """Check a datanodes.conf before it is used, and show what it says. FILE: not the one that ebb.conf names."""
    file = file or config.load(path).datanodes_conf
    try:
        site = datanodes.load(file)
    except datanodes.DatanodesError as error:
        for problem in error.problems:
            click.echo(f"ebb: {problem}", err=True)
        raise click.exceptions.Exit(1) from None
    click.echo(datanodes_text.table(site), nl=False)


@main.command("key")
@click.pass_obj
def key(path: Path) -> None:
    """Make the site key, once; copy it to every node afterwards (0600, root)."""
    target = config.load(path).site_key_path
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise UserError(
            f"{target} exists: a new key would make every ticket and dataset of this site invalid; "
            "move the old one away first if that is meant"
        ) from None
    except OSError as error:
        raise EnvironmentFault(f"{target} cannot be made: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
    click.echo(f"{target}: made; copy it to all nodes, owned by root, mode 0600")


main.add_command(dataset)
main.add_command(migrate)


def _ask(path: Path, verb: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """One question to the orchestrator's unix socket (docs/interfaces.md)."""
    where = config.load(path).socket_path
    request = {"v": 1, "verb": verb, "request_id": log.new_request_id("ebb"), **body}
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(where))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as answers:
                answer: dict[str, Any] = json.loads(answers.readline())
    except (OSError, ValueError) as error:
        raise EnvironmentFault(
            f"the orchestrator does not answer at {where} ({error}): is ebb-orchestrator running, "
            "and is this the controller?"
        ) from error
    if not answer.get("ok"):
        raise UserError(str(answer.get("message")))
    return answer


if __name__ == "__main__":
    main()
