"""`python -m tests.bench [--no-cluster] [WORD...]`: run the benches whose name holds one of the words, or all."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.runner import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
