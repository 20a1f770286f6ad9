"""The hooks that run with slurmctld's locks held, in the Lua that Debian's plugin links (5.1)."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from bench import bbstat
from bench.measure import Row, percentile
from ebb import datanodes
from orchestrator import luachunk
from orchestrator.bbstat import render_capacity

ROOT = Path(__file__).resolve().parents[2]
CALLS = 200
LINES = 10_000

DIRECTIVES = """#!/bin/bash
#SBATCH -N 1
#BB_LUA GBF create_persistent Name=toto StorageSize=1GiB Path=/home/alice/mnt FSType=ganesha \
MetaDataServers=0 StorageDataServers=1 data_dst=/home/alice/ds/my-dataset
#BB_LUA GBF use_persistent Name=tata
"""


def rows() -> list[Row]:
    """job_process on long scripts, and get_status with many buffers."""
    with tempfile.TemporaryDirectory(prefix="ebb-bench-") as folder:
        run_dir = Path(folder)
        site = datanodes.parse((ROOT / "datanodes.conf.example").read_text())
        (run_dir / "capacity").write_text(render_capacity(site, {"Types": "GBF"}))
        text = bbstat.example_text().encode()
        (run_dir / "bbstat").write_bytes(text)
        (run_dir / "bbstat.luac").write_bytes(luachunk.chunk(text))
        commands = run_dir / "commands.sh"
        commands.write_text(DIRECTIVES + "srun ./simulate --step 1 --input data\n" * LINES)
        comments = run_dir / "comments.sh"
        comments.write_text(DIRECTIVES + "# a comment, which Slurm's parser reads too\n" * LINES)
        return [
            _row("job_process: script of 10,000 commands", 1.0, run_dir, "job_process", str(commands)),
            _row("job_process: script of 10,000 comments", None, run_dir, "job_process", str(comments)),
            _row("get_status: 10,000 buffers", 2.0, run_dir, "get_status"),
        ]


def _row(name: str, budget: float | None, run_dir: Path, hook: str, *arguments: str) -> Row:
    """Median of the hook alone; the whole call, with reading the Lua files anew, is told beside it."""
    whole, alone = _times(run_dir, hook, *arguments)
    against = f"p99 {percentile(alone, 99) * 1000:.2f} ms; with reading Lua files {percentile(whole, 50) * 1000:.2f} ms"
    return Row(name, percentile(alone, 50) * 1000, "ms", budget, against)


def _times(run_dir: Path, hook: str, *arguments: str) -> tuple[list[float], list[float]]:
    script = Path(__file__).with_name("hooks.lua")
    done = subprocess.run(
        ["lua5.1", str(script), str(ROOT / "slurm_bb_lua"), hook, str(CALLS), *arguments],
        check=True, capture_output=True, text=True, timeout=120,
        env={"PATH": os.environ["PATH"], "EBB_RUN_DIR": str(run_dir), "LC_ALL": "C"},
    )  # fmt: skip
    pairs = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    return [whole for whole, _ in pairs], [alone for _, alone in pairs]
