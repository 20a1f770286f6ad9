"""Python inside a process of Slurm's: each way in which that can go wrong, on a host like slurmd."""

from __future__ import annotations

import shutil
import socket
import threading
from pathlib import Path

import pytest

from computenode import CHECKOUT, RUN, Built, Node

PATH = "/home/alice/mnt"


def broken(node: Node, file: str, text: str) -> None:
    """Give the node's plugin a Python part with another text in one file."""
    library = node.built.library
    node.run(["mount", "-t", "tmpfs", "tmpfs", str(library)])
    for package in ("ebb", "spank"):
        shutil.copytree(CHECKOUT / package, node.path(f"{library}/{package}"))
    node.write(f"{library}/{file}", text.encode())


def refused(node: Node, **more: object) -> str:
    """A step whose program must not run; what its user reads."""
    result = node.step("echo the program ran", ticket=node.ticket(node.buffer("toto", PATH)), **more)
    assert "the program ran" not in result.out
    assert result.all("init_post_opt") == ["0"]
    assert result.all("task") == ["1"]
    return result.err


@pytest.mark.parametrize("context", ["remote", "slurmd", "local", "allocator", "script"])
def test_no_hook_starts_python_without_a_buffer(node: Node, context: str) -> None:
    hooks = ["init", "init_post_opt", "user_init", "task_exit", "exit", "slurmd_exit", "job_prolog", "job_epilog"]
    result = node.host(*hooks, "python", context=context)
    assert result.one("python") == "0"
    assert result.err == ""


def test_a_buffer_starts_python_which_ends_without_a_trace(node: Node) -> None:
    result = node.host(
        "init",
        "init_post_opt",
        "python",
        "threads",
        "signals",
        "tasks:true",
        "close",
        ticket=node.ticket(node.buffer("toto", PATH)),
    )
    assert result.one("python") == "1"
    assert result.one("threads") == "1"  # slurmstepd forks its tasks after this
    assert result.one("signals") == "1 0"  # SIGPIPE as before: default action, not blocked
    assert result.one("close") == "1"  # never unloaded, for Python cannot be
    assert (result.code, result.err) == (0, "")


def test_many_tasks_are_forked_after_python_ran(node: Node) -> None:
    result = node.step("true", tasks=64, ticket=node.ticket(node.buffer("toto", PATH)))
    assert result.all("task") == ["0"] * 64


@pytest.mark.parametrize("where", ["environment", "variables"])
def test_the_users_environment_does_not_reach_python(node: Node, where: str) -> None:
    evil = "/home/alice/evil"
    node.run(["install", "-d", f"{evil}/bin"])
    for name in ("sitecustomize.py", "usercustomize.py", "json.py", "hmac.py"):
        node.write(f"{evil}/{name}", b"open('/home/alice/pwned', 'w').close()\nraise SystemExit(3)\n")
    node.write(f"{evil}/bin/python3", b"#!/bin/sh\ntouch /home/alice/pwned\n", 0o755)
    node.write(f"{evil}/bin/pyvenv.cfg", b"home = /nowhere\n")
    attack = {
        "PYTHONHOME": "/nonexistent",
        "PYTHONPATH": evil,
        "PYTHONSTARTUP": f"{evil}/json.py",
        "PYTHONINSPECT": "1",
        "PYTHONUSERBASE": evil,
        "PYTHONPLATLIBDIR": "evil",
        "PYTHONEXECUTABLE": f"{evil}/bin/python3",
        "__PYVENV_LAUNCHER__": f"{evil}/bin/python3",
        "VIRTUAL_ENV": evil,
        "PATH": f"{evil}/bin:/usr/bin:/bin",
        "LD_LIBRARY_PATH": evil,
        "PYTHONMALLOC": "nonsense",
        "PYTHONIOENCODING": "nonsense",
        "LC_ALL": "nonsense",
    }
    result = node.step(
        f"/bin/cat {PATH}/whose", ticket=node.ticket(node.buffer("toto", PATH)), directory=evil, **{where: attack}
    )
    assert "toto" in result.out, result.err
    assert not node.path("/home/alice/pwned").exists()


def test_paths_need_not_be_ascii(node: Node) -> None:
    path = "/home/alice/Größe und\\Übersicht"
    ticket = node.ticket(node.buffer("toto", path))
    result = node.step(f"cat '{path}/whose'", ticket=ticket, environment={"LC_ALL": "C"})
    assert "toto" in result.out, result.err


def test_an_exception_in_a_callback_is_no_success(node: Node) -> None:
    text = (CHECKOUT / "spank/plan.py").read_text()
    broken(node, "spank/plan.py", text.replace("settings = config.load(config_path)", "settings = 1 // 0"))
    assert "ZeroDivisionError" in refused(node)


@pytest.mark.parametrize("text", ["import nothing_of_that_name\n", "raise SystemExit(0)\n", "def (:\n"])
def test_python_code_that_does_not_load_is_no_success(node: Node, text: str) -> None:
    broken(node, "spank/callbacks.py", text)
    assert "does not load" in refused(node)


def test_python_that_does_not_start_is_no_success(node: Node, built: Built, tmp_path: Path) -> None:
    """An upgrade that took the standard library away, say."""
    node.run(["mount", "-t", "tmpfs", "tmpfs", "/usr/lib/python3.11"])
    assert "does not start" in refused(node) or "does not load" in refused(node)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o666])
def test_a_site_key_that_others_may_read_is_refused(node: Node, mode: int) -> None:
    node.path("/srv/etc/site.key").chmod(mode)
    assert "site key" in refused(node)


def test_a_broken_setting_is_refused(node: Node) -> None:
    node.configure("NoSuchKey=1")
    assert "NoSuchKey" in refused(node)


def test_a_peer_that_hangs_up_does_not_kill_the_host(node: Node, munge_socket: str) -> None:
    """A write to it would raise SIGPIPE, whose default action ends the process."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def hang_up() -> None:
        listener.settimeout(0.1)
        while not stop.is_set():
            try:
                peer, _ = listener.accept()
            except TimeoutError:
                continue
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            peer.close()

    thread = threading.Thread(target=hang_up)
    thread.start()
    try:
        node.configure(f"Orchestrator=127.0.0.1:{listener.getsockname()[1]}", f"MungeSocket={munge_socket}")
        result = node.host("init", "init_post_opt", "signals", "tasks:echo the program ran", ticket="v1.junk.junk")
    finally:
        stop.set()
        thread.join()
        listener.close()
    assert result.code == 0
    assert result.one("signals") == "1 0"
    assert "the program ran" not in result.out
    assert "did not answer" in result.err


def test_hooks_of_one_step_in_different_processes(node: Node) -> None:
    """As psslurm calls them: nothing may be remembered in the process."""
    ticket = node.ticket(node.buffer("toto", PATH))
    result = node.host(
        "fork:init",
        "fork:init_post_opt",
        "fork:user_init",
        f"tasks:cat {PATH}/whose",
        "fork:task_exit",
        "fork:exit",
        ticket=ticket,
    )
    assert "toto" in result.out
    assert result.err == ""


def test_hooks_on_a_small_stack(node: Node) -> None:
    """contain_spank runs hooks on 8 MiB of heap."""
    result = node.host(
        "heap:init",
        "heap:init_post_opt",
        "heap:user_init",
        "tasks:cat /home/alice/mnt/whose",
        "heap:task_exit",
        ticket=node.ticket(node.buffer("toto", PATH)),
    )
    assert "toto" in result.out
    assert result.err == ""


def test_the_c_part_under_sanitizers(sanitized: Built) -> None:
    node = Node(sanitized)
    try:
        for place in (f"{RUN}/dn1/sbb/1/data", f"{RUN}/dn1/sbb/1/own/a b\\", f"{RUN}/dn1/sbb/1/own/" + "ä\t" * 80):
            node.run(["mkdir", "-p", place])
            node.run(["mount", "-t", "tmpfs", "tmpfs", place])
        node.run(["install", "-d", "-o", "2001", "/home/alice/x\ty\\"])
        node.run(["ln", "-s", "/home/alice/x\ty\\", PATH])
        ticket = node.ticket(node.buffer("a", PATH), node.buffer("b", f"{PATH}/b"))
        # heap: is left out, for ASan would have to be told of another stack.
        good = node.host(
            "init",
            "option:yes",
            "init_post_opt",
            "user_init",
            f"tasks:cat {PATH}/b/whose",
            ticket=ticket,
            tasks=3,
            variables={"IOI_X": "1\x01"},
        )
        assert good.all("task") == ["0"] * 3
        bad = node.step("echo the program ran", job=2, ticket=node.ticket(node.buffer("a", "/home/bob/x"), job=2))
        held = node.step("true", job=3, arguments=["stale=0"], ticket=node.ticket(node.buffer("a", PATH), job=3))
        boxed = node.host(
            "init",
            "init_post_opt",
            f"contained:cat {PATH}/whose",
            job=4,
            ticket=node.ticket(node.buffer("a", PATH), job=4),
        )
        assert "a\n" in boxed.out
        ended = node.host("job_epilog", context="script")
        for result in (good, bad, held, boxed, ended):
            assert "Sanitizer" not in result.err and "runtime error" not in result.err, result.err
            assert result.code == 0
        assert "the program ran" not in bad.out
    finally:
        node.end()


def test_what_a_step_without_a_buffer_costs(node: Node) -> None:
    """One look into the environment, one at the disk: microseconds. A generous bound, for machines are busy."""
    times = sorted(int(t) for t in node.host("init", *["time:init_post_opt"] * 50).all("time"))
    assert times[25] < 200
