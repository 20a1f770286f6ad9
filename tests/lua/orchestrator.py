#!/usr/bin/python3
"""Stands for the orchestrator's unix socket in the Lua tests: answers by a plan and notes what it was asked.

Usage: orchestrator.py SOCKET LOG PLAN [SECONDS UNTIL IT LISTENS]

PLAN is a JSON list with one step a connection; the last one repeats. A step is the text to send, null to break the
connection after the request, or a number of seconds to hold an answer that is good.
Ends when its stdin closes, so it cannot outlive the test that started it.
"""

import json
import os
import select
import socket
import sys


def wait_for_end(seconds: float) -> None:
    """Leaves if stdin closes before the seconds are over."""
    if select.select([0], [], [], seconds)[0]:
        sys.exit(0)


def serve(listener: socket.socket, log_path: str, plan: list[str | float | None]) -> None:
    """One connection after the other until stdin closes."""
    step = 0
    while 0 not in select.select([0, listener.fileno()], [], [])[0]:
        connection, _ = listener.accept()
        with connection, open(log_path, "a", encoding="utf-8") as log:
            log.write(connection.makefile("r", encoding="utf-8", newline="\n").readline())
            log.flush()
            reply = plan[min(step, len(plan) - 1)]
            step += 1
            if isinstance(reply, int | float):
                wait_for_end(reply)
                reply = '{"ok":true}\n'
            if reply is not None:
                connection.sendall(reply.encode())


def main() -> None:
    path, log_path, plan = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    wait_for_end(float(sys.argv[4]) if len(sys.argv) > 4 else 0)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path + ".new")
        listener.listen()
        os.rename(path + ".new", path)  # whoever sees the socket can connect
        try:
            serve(listener, log_path, plan)
        finally:
            os.unlink(path)


if __name__ == "__main__":
    main()
