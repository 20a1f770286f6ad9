"""Builds spank_ebb.so and spank_ebb_python.so: `python -m spank._cffi_build --output DIR`.

The first is what plugstack.conf names: plain C. The second lies beside it and is loaded by the first when a job has a
buffer: cffi's embedding, linked to libpython.

Run it with the interpreter that shall run inside Slurm; that path, and where `spank` and `ebb` are found, are baked in.
A plugin fits one major.minor release of Slurm: build again for each, with its headers (`--slurm-include`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cffi

_HERE = Path(__file__).resolve().parent
_PLUGIN = (
    "hooks.c",
    "ask.c",
    "user.c",
    "files.c",
    "plan.c",
    "mounts.c",
    "sbb.c",
    "pins.c",
    "child.c",
    "table.c",
    "leave.c",
    "namespace.c",
    "iostat.c",
)
_PYTHON_PART = ("host_python.c", "address.c")
_STRICT = ("-Wall", "-Wextra", "-Werror", "-O2", f"-I{_HERE}")
# A build id would be made from the names of temporary files too: the same sources would give other bytes each time.
_LINK = ("-Wl,-z,nodelete", "-Wl,-z,relro", "-Wl,--build-id=none")
_SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g")

# What Python sees; the same declarations stand in ebb_spank.h and are compared by the C compiler.
_TYPES = """
typedef struct {
    uint32_t job;
    uint32_t uid;
    uint32_t gid;
    const uint32_t *groups;
    int group_count;
    const char *ticket;
    const char *config;
} ebb_step;

typedef struct {
    ...;
} ebb_answer;

void ebb_answer_data(ebb_answer *answer, const char *data, size_t size);
void ebb_answer_ticket(ebb_answer *answer, const char *ticket);
int ebb_address_look_up(const char *name, char *numeric, size_t size);
"""
_CALLBACKS = "int ebb_python_plan(ebb_step *step, ebb_answer *answer);"
_PRELUDE = """
#include "ebb_spank.h"
#include <stdlib.h>
#include <string.h>

/* The rest of this file is cffi's. */
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wcast-function-type"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

static int cffi_start_python(void);

int ebb_cffi_start(void)
{
    return cffi_start_python();
}

void ebb_answer_data(ebb_answer *answer, const char *data, size_t size)
{
    free(answer->data);
    answer->data = calloc(1, size + 1);
    answer->size = answer->data ? size : 0;
    if (answer->data)
        memcpy(answer->data, data, size);
}

void ebb_answer_ticket(ebb_answer *answer, const char *ticket)
{
    free(answer->ticket);
    answer->ticket = strdup(ticket);
}
"""


def build(
    output: Path, *, python: Path, python_path: Sequence[str], slurm_include: Path | None = None, sanitize: bool = False
) -> Path:
    """Compile and link both, and return the path of output/spank_ebb.so; existing ones are replaced.

    python: the interpreter whose prefix and site-packages the plugin uses, absolute, not resolved: in a virtual
    environment it is a link. python_path: more folders to import from, before the interpreter's own.
    slurm_include: the folder that has slurm/spank.h. sanitize: with ASan and UBSan, for tests.
    Raises subprocess.CalledProcessError or cffi.VerificationError if the compiler refuses.
    """
    output.mkdir(parents=True, exist_ok=True)
    flags = [*_STRICT, *(_SANITIZE if sanitize else ())]
    with tempfile.TemporaryDirectory(prefix="ebb-spank-") as work:
        plugin = Path(work, "spank_ebb.so")
        include = [f"-I{slurm_include}"] if slurm_include else []
        subprocess.run(
            [
                os.environ.get("CC", "cc"),
                *flags,
                *include,
                "-fPIC",
                "-shared",
                *_LINK,
                *(str(_HERE / name) for name in _PLUGIN),
                "-o",
                str(plugin),
                "-ldl",
            ],
            check=True,
            timeout=120,
        )
        python_part = _python_part(work, python, python_path, flags, sanitize=sanitize)
        for built in (python_part, plugin):
            aside = output / f".{built.name}.new"
            shutil.copyfile(built, aside)
            aside.chmod(0o755)
            os.replace(aside, output / built.name)  # running processes keep the old one
    return output / "spank_ebb.so"


def _python_part(work: str, python: Path, python_path: Sequence[str], flags: Sequence[str], *, sanitize: bool) -> Path:
    ffi = cffi.FFI()
    ffi.cdef(_TYPES)
    ffi.embedding_api(_CALLBACKS)
    ffi.embedding_init_code(_init_code(python_path))
    # Without a warning that cffi's own text would give; ebb_spank.h turns it on again for ours.
    ffi.set_source(
        "spank_ebb_python",
        _PRELUDE,
        sources=[str(_HERE / name) for name in _PYTHON_PART],
        extra_compile_args=[*flags, "-Wno-unused-parameter", f'-DEBB_PYTHON="{python}"'],
        extra_link_args=[*_LINK, "-ldl", *(_SANITIZE if sanitize else ())],
        libraries=[_libpython()],
    )
    # compile(), not setuptools' cffi_modules: those are not linked to libpython, and Slurm could not load them.
    return Path(ffi.compile(tmpdir=work, target="spank_ebb_python.*"))


def _libpython() -> str:
    return f"python{sysconfig.get_config_var('LDVERSION') or sysconfig.get_config_var('VERSION')}"


def _init_code(python_path: Sequence[str]) -> str:
    """Runs once in the host process when Python is started; an exception is seen by host_python.c."""
    return f"import sys\nsys.path[:0] = {list(python_path)!r}\nimport spank.callbacks\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; also called by `setup.py build_spank`."""
    parser = argparse.ArgumentParser(prog="python -m spank._cffi_build", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build"), help="folder for both")
    parser.add_argument(
        "--python",
        type=Path,
        default=Path(sys.executable),
        help="interpreter on the compute nodes, absolute (default: this one)",
    )
    parser.add_argument(
        "--pythonpath",
        action="append",
        metavar="DIR",
        help="where the nodes find `spank` and `ebb` (default: this checkout); '' for nowhere but "
        "the interpreter's own packages",
    )
    parser.add_argument("--slurm-include", type=Path, help="folder with slurm/spank.h of another Slurm release")
    parser.add_argument("--sanitize", action="store_true", help="build with ASan and UBSan")
    options = parser.parse_args(arguments)
    python_path = options.pythonpath if options.pythonpath is not None else [str(_HERE.parent)]
    built = build(
        options.output.absolute(),
        python=options.python,
        slurm_include=options.slurm_include,
        python_path=[folder for folder in python_path if folder],
        sanitize=options.sanitize,
    )
    print(built)
    return 0


if __name__ == "__main__":
    sys.exit(main())
