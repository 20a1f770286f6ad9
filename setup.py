"""Adds two commands to setuptools, `build_spank` and `build_sbb`; everything else stands in pyproject.toml.

The plugin belongs to a Slurm release, the burst buffer's programs to a distribution's libfuse: `pip install` builds
neither.
"""

import subprocess
from pathlib import Path

from setuptools import Command, setup


class build_spank(Command):
    """Build the SPANK plugin against the installed libslurm-dev: `python setup.py build_spank [--output=DIR]`."""

    description = "build spank_ebb.so"
    user_options = [("output=", "o", "directory for spank_ebb.so (default: build)")]  # noqa: RUF012 (setuptools' interface)

    def initialize_options(self) -> None:
        """Defaults, before the command line is read."""
        self.output = "build"

    def finalize_options(self) -> None:
        """Make the directory absolute."""
        self.output = str(Path(self.output).absolute())

    def run(self) -> None:
        """Build."""
        from spank import _cffi_build

        _cffi_build.main(["--output", self.output])


ENGINE = Path(__file__).resolve().parent / "dnd/sbb/engine"
BOTH = ["common.c", "transport.c"]
SERVER = [
    "ranges.c",
    "memory.c",
    "files.c",
    "read.c",
    "store.c",
    "log.c",
    "session.c",
    "drain.c",
    "record.c",
    "control.c",
    "sbbd.c",
]
CLIENT = ["buffers.c", "rpc.c", "nodes.c", "names.c", "io.c", "sbb_client.c"]
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-g", "-pthread"]
HARDENED = ["-O2", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong", "-fPIE", "-pie", "-Wl,-z,relro,-z,now"]
VARIANTS = {
    "": HARDENED,
    "-asan": ["-O1", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"],
    "-tsan": ["-O1", "-fsanitize=thread"],
}


class build_sbb(Command):
    """Build sbbd and sbb-client: `python setup.py build_sbb [--output=DIR] [--variants=asan,tsan]`."""

    description = "build sbbd and sbb-client"
    user_options = [  # noqa: RUF012 (setuptools' interface)
        ("output=", "o", "directory for the programs (default: build)"),
        ("variants=", None, "builds for tests as well: asan,tsan"),
    ]

    def initialize_options(self) -> None:
        """Defaults, before the command line is read."""
        self.output = "build"
        self.variants = ""

    def finalize_options(self) -> None:
        """Make the directory absolute."""
        self.output = str(Path(self.output).absolute())

    def run(self) -> None:
        """Build."""
        Path(self.output).mkdir(parents=True, exist_ok=True)
        for variant in ["", *(f"-{word}" for word in self.variants.split(",") if word)]:
            self.compile("sbbd", variant, [*BOTH, *SERVER], [])
            self.compile("sbb-client", variant, [*BOTH, *CLIENT], ["fuse3"])

    def compile(self, name: str, variant: str, sources: list[str], packages: list[str]) -> None:
        """One program, in one call of the compiler."""
        found = subprocess.run(
            ["pkg-config", "--cflags", "--libs", "libcrypto", *packages], check=True, capture_output=True, text=True
        )
        program = f"{self.output}/{name}{variant}"
        files = [str(ENGINE / source) for source in sources]
        print(program, flush=True)
        subprocess.run(["gcc", *FLAGS, *VARIANTS[variant], *files, "-o", program, *found.stdout.split()], check=True)


setup(cmdclass={"build_spank": build_spank, "build_sbb": build_sbb})
