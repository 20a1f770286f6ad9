"""The packages on a Debian that had none: installed, tried, removed, purged. The tests run in this order."""

from __future__ import annotations

import re
from pathlib import Path

from packages.debian import Machine

HOOKS = """
slurm = { SUCCESS = 0, ERROR = -1, log_info = function() end, log_error = function() end }
dofile("/etc/slurm/burst_buffer.lua")
for _, name in ipairs({ "job_process", "pools", "job_teardown", "setup", "data_in", "test_data_in", "real_size",
                        "paths", "pre_run", "post_run", "data_out", "test_data_out", "get_status" }) do
    assert(type(_G["slurm_bb_" .. name]) == "function", name)
end
local code, text = slurm_bb_job_process("/tmp/job.sh")
print(code, text)
require("ebb.client")
"""
PLUGIN = """
import ctypes
part = ctypes.CDLL("/usr/lib/ebb/spank_ebb_python.so")
print(part.ebb_cffi_start())
"""
DATA = {
    "/etc/ebb/site.key",
    "/var/lib/ebb/ebb.db",
    "/var/lib/ebb/dn1/services/42.json",
}


def test_commands_run_with_debians_python(machine: Machine) -> None:
    for command, word in (("ebb", "destroy"), ("ebb-orchestrator", "--config"), ("ebb-dnd", "--ganesha-ports")):
        assert word in machine.run(command, "--help").stdout
    if (machine.path / "usr/sbin/pshcservcheck").exists():
        machine.run("pshcservcheck", "--help")


def test_a_users_python_settings_do_not_reach_roots_commands(machine: Machine) -> None:
    (machine.path / "tmp/click.py").write_text("raise SystemExit('hijacked')\n")
    done = machine.run("env", "PYTHONPATH=/tmp", "sh", "-c", "cd /tmp && ebb --help")
    assert "destroy" in done.stdout


def test_the_daemons_say_what_is_missing(machine: Machine) -> None:
    done = machine.run("ebb-dnd", check=False)
    assert done.returncode == 2, "ebb-dnd.service relies on this code"
    assert "--name" in done.stderr


def test_slurms_hooks_are_found_and_refuse_a_bad_line(machine: Machine) -> None:
    (machine.path / "tmp/job.sh").write_text("#!/bin/sh\n#BB_LUA GBF create_persistent Name=toto\n")
    done = machine.run("lua5.1", "-", text=HOOKS)
    code, _, message = done.stdout.partition("\t")
    assert code == "-1"
    assert "StorageSize" in message


def test_slurm_loads_the_plugin(machine: Machine) -> None:
    (machine.path / "etc/slurm/slurm.conf").write_text(
        "ClusterName=c\nSlurmctldHost=localhost\nAuthType=auth/munge\nSlurmUser=root\nNodeName=n1\n"
        "PartitionName=p Nodes=n1\nProctrackType=proctrack/linuxproc\nCredType=cred/munge\n"
    )
    done = machine.run("srun", "--help")
    assert "--ioinstrumentation" in done.stdout
    assert "ebb" not in done.stderr


def test_the_plugins_python_part_starts(machine: Machine) -> None:
    assert machine.run("/usr/bin/python3", "-I", "-", text=PLUGIN).stdout.strip() == "0"


def test_units_are_right_and_nothing_is_enabled(machine: Machine) -> None:
    units = [f"/usr/lib/systemd/system/{name}.service" for name in ("ebb-orchestrator", "ebb-dnd")]
    done = machine.run("systemd-analyze", "verify", "--man=no", *units, check=False)
    assert [line for line in (done.stdout + done.stderr).splitlines() if "ebb" in line] == []
    starts = {path.name for path in (machine.path / "etc/systemd/system").glob("*.target.wants/*")}
    assert starts, "what other packages enable is there"
    assert not [name for name in starts if "ebb" in name or "ganesha" in name]
    assert not (machine.path / "var/lib/ebb/.disable-nfs-ganesha").exists()


def test_the_datanodes_unit_lets_its_ganeshas_live_and_its_mounts_be_seen(machine: Machine) -> None:
    text = (machine.path / "usr/lib/systemd/system/ebb-dnd.service").read_text()
    assert "KillMode=process\n" in text
    own_namespace = (
        "Private|Protect(System|Home|Kernel|Control|Proc)|ReadOnly|ReadWritePaths|Inaccessible|Temporary|Bind"
    )
    assert not re.search(f"^({own_namespace})", text, re.MULTILINE)


def test_logrotate_takes_its_file(machine: Machine) -> None:
    done = machine.run("logrotate", "--debug", "/etc/logrotate.d/ebb-datanode")
    assert "error" not in done.stderr.lower()


def test_cron_runs_the_check_of_all_services(machine: Machine) -> None:
    lines = (machine.path / "etc/cron.d/ebb-datanode").read_text().splitlines()
    (entry,) = [line for line in lines if line[:1] not in "#SP"]
    *when, user, command = entry.split(maxsplit=6)
    assert (len(when), user) == (5, "root")
    assert command.endswith("/usr/sbin/pshcservcheck check all")
    machine.run("sh", "-n", "-c", command)


def test_the_same_packages_can_be_installed_again(machine: Machine, packages: dict[str, Path]) -> None:
    machine.apt("install", "--reinstall", *(f"/packages/{path.name}" for path in packages.values()))
    assert "destroy" in machine.run("ebb", "--help").stdout


def test_slurm_does_not_mind_that_the_plugin_is_removed(machine: Machine) -> None:
    machine.apt("remove", "ebb-compute")
    done = machine.run("srun", "--help")
    assert "--ioinstrumentation" not in done.stdout
    assert done.stderr == ""


def test_a_purge_leaves_data_says_so_and_leaves_nothing_else(machine: Machine) -> None:
    for path in DATA:
        (machine.path / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (machine.path / path[1:]).write_text("precious")
    said = machine.apt("purge", "ebb-common", "ebb-controller", "ebb-datanode", "ebb-compute")
    for path in ("/etc/ebb/site.key", "/var/lib/ebb/ebb.db", "gbf_*_stg"):
        assert path in said
    folders = {str(parent) for path in DATA for parent in Path(path).parents}
    ours = re.compile(r"[/._-](ebb|pshcservcheck)([/._-]|$)|/burst_buffer\.(lua|conf)$")
    left = {path for path in machine.paths() if ours.search(path) and not path.startswith("/packages/")}
    assert left - folders == DATA
