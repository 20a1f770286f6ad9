"""--ioinstrumentation, and tasks that Slurm puts into containers of its own."""

from __future__ import annotations

import pytest

from computenode import Node

PATH = "/home/alice/mnt"


@pytest.mark.parametrize(("value", "result"), [("yes", "0"), ("no", "0"), ("YES", "0"), ("maybe", "-1"), ("", "-1")])
@pytest.mark.parametrize("context", ["local", "allocator", "slurmd", "remote"])
def test_the_option_is_there_and_checks_its_value(node: Node, context: str, value: str, result: str) -> None:
    done = node.host("init", f"option:{value}", context=context)
    assert done.one("option") == result
    assert ("must be yes or no" in done.err) == (result == "-1")


def test_variables_and_a_summary_go_to_the_steps_log(node: Node) -> None:
    data = node.data("toto")
    node.run(["mount", "-t", "tmpfs", "-o", "uid=2001", "tmpfs", data])
    result = node.host(
        "init",
        "option:yes",
        "init_post_opt",
        "user_init",
        f"tasks:head -c 3145728 /dev/zero > {PATH}/made-$$",
        "env:SLURM_EBB_IOINSTRUMENTATION",
        tasks=2,
        ticket=node.ticket(node.buffer("toto", PATH, data=data)),
        variables={"IOI_WORKFLOW_NAME": "wf\x1b[2Jx", "OTHER": "hidden"},
    )
    assert result.err.splitlines() == [
        "ebb: IOI_WORKFLOW_NAME=wf?[2Jx",
        "ebb: I/O on buffer toto: used space changed by 6.0 MiB (its file system counts no reads and writes)",
    ]
    assert result.one("env") == "yes"  # the steps of a batch script inherit it
    assert [pin for pin in node.pins() if ":io" in pin] == []


@pytest.mark.parametrize("name", ["a\tb\nother\tbind\t/home", "a\rb\vc d", "a\\040b"])
def test_the_path_of_a_mountpoint_may_hold_anything(node: Node, name: str) -> None:
    """Path= itself may not; a symbolic link leads there."""
    data = node.data("toto")
    node.run(["mount", "-t", "tmpfs", "-o", "uid=2001", "tmpfs", data])
    node.run(["install", "-d", "-o", "2001", f"/home/alice/{name}"])
    node.run(["ln", "-s", f"/home/alice/{name}", PATH])
    result = node.host(
        "init",
        "option:yes",
        "init_post_opt",
        f"tasks:head -c 3145728 /dev/zero > {PATH}/made",
        ticket=node.ticket(node.buffer("toto", PATH, data=data)),
    )
    (line,) = result.err.splitlines()
    assert line.startswith("ebb: I/O on buffer toto: used space changed by 3.0 MiB")


def test_the_options_value_begins_no_line_of_the_log(node: Node) -> None:
    done = node.host("init", "option:maybe\n[2026-01-01T00:00:00.000] error: forged\x1b[2J")
    (line,) = done.err.splitlines()
    assert "maybe?[2026-01-01T00:00:00.000]" in line and line.endswith("must be yes or no")


def test_steps_of_an_instrumented_batch_script_in_processes_of_their_own(node: Node) -> None:
    """As psslurm: the task that ends last tells, whichever process its hook runs in."""
    result = node.host(
        "fork:init",
        "fork:init_post_opt",
        "fork:task_exit",
        "fork:task_exit",
        "fork:task_exit",
        tasks=3,
        ticket=node.ticket(node.buffer("toto", PATH)),
        variables={"SLURM_EBB_IOINSTRUMENTATION": "yes"},
    )
    assert len(result.err.splitlines()) == 1
    assert result.err.startswith("ebb: I/O on buffer toto: ")


def test_no_word_without_the_option(node: Node) -> None:
    ticket = node.ticket(node.buffer("toto", PATH))
    assert node.step("true", ticket=ticket, variables={"IOI_X": "1"}).err == ""
    outer = {"SLURM_EBB_IOINSTRUMENTATION": "yes", "IOI_X": "1"}
    said_no = node.host("init", "option:no", "init_post_opt", "user_init", "tasks:true", ticket=ticket, variables=outer)
    assert said_no.err == ""


def test_an_instrumented_step_without_a_buffer(node: Node) -> None:
    result = node.host(
        "init", "option:yes", "init_post_opt", "user_init", "tasks:true", "python", variables={"IOI_X": "1"}
    )
    assert result.err == "ebb: IOI_X=1\n"
    assert result.one("python") == "0"


@pytest.mark.parametrize("folder_first", [True, False])
def test_inside_a_job_container_the_buffer_is_there_and_the_container_stays(node: Node, folder_first: bool) -> None:
    """There only the task hooks run inside; the pin cannot be seen from there."""
    if folder_first:
        node.host("init", context="slurmd", job=0)
    ticket = node.ticket(node.buffer("toto", PATH), node.buffer("inner", f"{PATH}/inner"))
    result = node.host(
        "init",
        "init_post_opt",
        f"contained:cat {PATH}/whose; ls /mnt; grep -c ' {PATH} ' /proc/self/mountinfo",
        tasks=4,
        ticket=ticket,
    )
    lines = result.out.splitlines()
    assert lines.count("toto") == 4, result.err
    assert lines.count("private-to-the-container") == 4
    assert lines.count("1") == 4  # mounted once, not once a task
    assert result.err == ""


def test_a_refusal_reaches_tasks_inside_a_job_container(node: Node) -> None:
    result = node.host(
        "init",
        "init_post_opt",
        "contained:echo the program ran",
        ticket=node.ticket(node.buffer("toto", "/home/bob/x")),
    )
    assert "the program ran" not in result.out
    assert "ebb: error: buffer toto cannot be mounted on /home/bob/x" in result.err


def test_a_container_without_a_buffer(node: Node) -> None:
    assert "ran" in node.host("init", "init_post_opt", "contained:echo ran").out
