"""Who may mount what: the environment is the user's, the ticket's signature is not."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from computenode import BOB, Node
from ebb.http_server import Request, Server
from ebb.ticket import SiteKey

PATH = "/home/alice/mnt"


@contextmanager
def orchestrator(node: Node, munge_socket: str, answer: Any) -> Iterator[list[Mapping[str, Any]]]:
    """A server of the orchestrator's wire that answers `ticket` so; yields what was asked."""
    asked: list[Mapping[str, Any]] = []

    def ticket(request: Request) -> Mapping[str, Any]:
        asked.append(request.body)
        return {"ticket": answer}

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Server("127.0.0.1", port, {"ticket": ticket}, munge_socket=munge_socket)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    node.configure(f"Orchestrator=127.0.0.1:{port}", f"MungeSocket={munge_socket}")
    try:
        yield asked
    finally:
        server.close()
        thread.join(timeout=10)


def bad_tickets(node: Node) -> dict[str, str]:
    """Tickets that must not be believed, by what is wrong with them."""
    mount = node.buffer("theirs", PATH)
    good = node.ticket(mount)
    version, payload, mac = good.split(".")
    content = json.loads(base64.urlsafe_b64decode(payload + "==="))
    changed = json.dumps({**content, "exp": 1 << 40}).encode()
    forged = base64.urlsafe_b64encode(changed).decode().rstrip("=")
    return {
        "forged": f"{version}.{forged}.{mac}",
        "another key": node.ticket(mount, key=SiteKey(os.urandom(32))),
        "expired": node.ticket(mount, expires=-5),
        "another job's": node.ticket(mount, job=99),
        "another user's": node.ticket(mount, uid=BOB),
        "cut short": good[:-3],
        "another version": "v2" + good[2:],
        "no ticket": "pinned",
        "very long": "v1." + "A" * 60000 + ".A",
    }


KINDS = [
    "forged",
    "another key",
    "expired",
    "another job's",
    "another user's",
    "cut short",
    "another version",
    "no ticket",
    "very long",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_ticket_that_does_not_fit_mounts_nothing(node: Node, kind: str) -> None:
    result = node.step("echo the program ran", ticket=bad_tickets(node)[kind])
    assert "the program ran" not in result.out  # nobody could be asked: is there a buffer or not?
    assert "orchestrator could not be asked" in result.err
    assert "SLURM_EBB_TICKET" in result.err  # what to do


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_without_a_buffer_runs_with_any_ticket(node: Node, munge_socket: str, kind: str) -> None:
    """A ticket is inherited from the job in which another is submitted."""
    ticket = bad_tickets(node)[kind]
    with orchestrator(node, munge_socket, None) as asked:
        result = node.host(
            "init", "init_post_opt", "env:SLURM_EBB_TICKET", f"tasks:echo ran; ls {PATH}", ticket=ticket, job=7
        )
    assert asked == [{"job_id": 7}]
    assert "ran" in result.out and "whose" not in result.out
    assert result.one("env") == "(unset)"
    assert not any(pin.startswith("7.") for pin in node.pins())


def test_the_right_ticket_is_fetched_when_the_inherited_one_is_wrong(node: Node, munge_socket: str) -> None:
    right = node.ticket(node.buffer("mine", PATH), job=8)
    with orchestrator(node, munge_socket, right) as asked:
        result = node.host(
            "init",
            "init_post_opt",
            "env:SLURM_EBB_TICKET",
            f"tasks:cat {PATH}/whose",
            job=8,
            ticket=node.ticket(node.buffer("theirs", PATH), job=3),
        )
        again = node.step(f"cat {PATH}/whose", job=8, ticket="junk")
    assert "mine" in result.out and "mine" in again.out
    assert result.one("env") == right
    assert len(asked) == 1  # the pin answers the second step


def test_an_answer_that_does_not_fit_either_is_refused(node: Node, munge_socket: str) -> None:
    with orchestrator(node, munge_socket, node.ticket(node.buffer("theirs", PATH), job=3)):
        result = node.step("echo the program ran", job=8, ticket="junk")
    assert "the program ran" not in result.out
    assert "site keys" in result.err


def test_a_job_without_a_ticket_asks_nobody(node: Node, munge_socket: str) -> None:
    with orchestrator(node, munge_socket, None) as asked:
        result = node.host("init", "init_post_opt", "python", "tasks:true", variables={"SLURM_EXPORT_ENV": "NONE"})
    assert asked == []
    assert result.one("python") == "0"


def test_secrets_are_not_shown(node: Node) -> None:
    ticket = node.ticket(node.buffer("toto", PATH), job=99)
    result = node.step("true", ticket=ticket)
    assert ticket not in result.err + result.out
    assert ticket.rsplit(".", 1)[1] not in result.err + result.out
