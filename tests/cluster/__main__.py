"""`python tests/cluster` is `ctl`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from cluster.cli import main  # noqa: E402 (found only now)

main(prog_name="ctl")
