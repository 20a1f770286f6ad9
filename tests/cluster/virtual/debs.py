"""Ebb's Debian packages of this checkout, built when the sources have changed."""

import subprocess
from pathlib import Path

from cluster.errors import ClusterError
from cluster.kinds import Report
from cluster.layout import CHECKOUT
from cluster.virtual.roots import SUITES

BUILD = CHECKOUT / "packaging/build"


def build(release: str, report: Report) -> Path:
    """A folder with the packages for the Debian suite that has this Slurm; a moment if nothing changed.

    Raises ClusterError with the end of what the builder said.
    """
    suite = SUITES[release]
    output = CHECKOUT / "dist" / suite
    done = subprocess.run(
        ["setpriv", "--pdeathsig", "TERM", str(BUILD), "--suite", suite, "--output", str(output)],
        check=False, capture_output=True, text=True, timeout=1800, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0:
        lines = "\n".join(f"  {line}" for line in done.stderr.splitlines()[-15:])
        raise ClusterError(f"{BUILD} --suite {suite}: code {done.returncode}\n{lines}")
    if not any(output.glob("*.deb")):
        raise ClusterError(f"{BUILD} --suite {suite} made no package in {output}")
    report(f"Ebb's packages for {suite} are in {output}")
    return output
