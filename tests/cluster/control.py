"""Asks the cluster's process 1 (`supervisor`)."""

import json
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError


@dataclass(frozen=True)
class Running:
    """A daemon as process 1 knows it: its pid inside the cluster; its exit code once it has ended."""

    pid: int
    status: int | None


class Control:
    """A client of one cluster's process 1. Every method raises ClusterError if it does not answer or refuses."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request, one answer."""
        folder = os.open(self.state, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(60)
                # By the folder's descriptor: the whole path could be too long for a socket address.
                connection.connect(f"/proc/self/fd/{folder}/control.sock")
                with connection.makefile("rw") as stream:
                    stream.write(json.dumps(request) + "\n")
                    stream.flush()
                    reply: dict[str, Any] = json.loads(stream.readline())
        except (OSError, ValueError) as error:
            raise ClusterError(f"the cluster in {self.state} does not answer: {error}") from error
        finally:
            os.close(folder)
        if not reply["ok"]:
            raise ClusterError(str(reply["message"]))
        return reply

    def start(self, name: str, argv: list[str], env: dict[str, str], user: str | None) -> int:
        """Start a daemon; its pid inside the cluster."""
        return int(self.ask(verb="start", name=name, argv=argv, env=env, user=user)["pid"])

    def signal(self, name: str, number: signal.Signals, *, tree: bool = False) -> None:
        """Signal a daemon. tree: and all that it started in its session."""
        self.ask(verb="signal", name=name, signal=int(number), tree=tree)

    def list(self) -> dict[str, Running]:
        """Every daemon that was ever started, in the order of starting."""
        return {name: Running(**fields) for name, fields in self.ask(verb="list")["processes"].items()}
