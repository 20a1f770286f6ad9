"""Creates and destroys buffers through the hooks' socket. Runs on the controller, as root, with the system's Python.

Arguments: uid of the owner, number of buffers. Prints {"create": [seconds...], "destroy": [seconds...]}.
"""

import json
import socket
import sys
import time
from typing import Any

SOCKET = "/run/ebb/orchestrator.sock"
FIRST_JOB = 900_000_000
"""Far from any job id that the cluster's Slurm gives out."""


def call(verb: str, job: int, **fields: Any) -> "dict[str, Any]":
    request = {"v": 1, "verb": verb, "request_id": f"j{job}-{verb}-bench", "job_id": job, **fields}
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(60)
        peer.connect(SOCKET)
        peer.sendall(json.dumps(request).encode() + b"\n")
        answer: dict[str, Any] = json.loads(peer.makefile().readline())
    if not answer.get("ok"):
        raise SystemExit(f"{verb} of job {job} was refused: {answer.get('message')}")
    return answer


def timed(job: int, uid: int, directive: "dict[str, Any]") -> float:
    """Seconds from setup until data_in says that all is done."""
    start = time.perf_counter()
    call("setup", job, uid=uid, gid=uid, directives=[directive])
    while call("data_in", job, wait=25)["state"] != "ready":
        if time.perf_counter() - start > 60:
            raise SystemExit(f"job {job}: {directive['verb']} is not done after 60 s")
    return time.perf_counter() - start


def main(uid: int, count: int) -> None:
    times: dict[str, list[float]] = {"create": [], "destroy": []}
    for number in range(count):
        name = f"bench{number}"
        create = {
            "Name": name, "StorageSize": str(1 << 30), "Path": "/home/alice/mnt", "FSType": "ganesha",
            "MetaDataServers": "0", "StorageDataServers": "1",
        }  # fmt: skip
        for verb, args in (("create", create), ("destroy", {"Name": name})):
            job = FIRST_JOB + 2 * number + (verb == "destroy")
            directive = {"line": 2, "type": "GBF", "verb": f"{verb}_persistent", "args": args}
            times[verb].append(timed(job, uid, directive))
            call("job_teardown", job, hurry=False)
    print(json.dumps(times))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
