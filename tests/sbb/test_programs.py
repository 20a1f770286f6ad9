"""Programs that users run, unchanged, inside a target; and what is on the target after draining."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sbb.engine import UID, Client, Engine

Make = Callable[..., Engine]
PYTHON = "/usr/bin/python3"
SETTINGS = {"drain_delay": "0.2", "memory": 64 << 20}


@pytest.fixture(params=[{"servers": 2}, {"store": True}], ids=["two-servers", "store"])
def mounted(request: pytest.FixtureRequest, buffer: Make) -> Iterator[tuple[Engine, Client, Path]]:
    engine = buffer(settings=SETTINGS, **request.param)
    assert engine.target is not None
    yield engine, engine.client(), engine.target


def test_a_python_program_that_writes_lines_writes_large_pieces(mounted: tuple[Engine, Client, Path]) -> None:
    """The buffer of an open file is as large as the file says that its pieces should be."""
    engine, client, target = mounted
    (target / "below").touch()
    trace, lines = target / "trace", target / "lines"
    code = f"file = open({str(lines)!r}, 'wb'); [file.write(b'%d\\n' % number) for number in range(1000000, 1100000)]"
    client.run("strace", "-o", str(trace), "-e", "trace=write", PYTHON, "-c", code)
    calls = [line for line in client.run("cat", str(trace)).stdout.splitlines() if line.startswith("write(")]
    assert [int(line.rsplit("= ")[-1]) for line in calls] == [131072] * 6 + [800_000 - 6 * 131072]
    assert client.run("stat", "-c", "%o", str(lines), str(target / "below")).stdout.split() == ["131072"] * 2
    engine.drain()
    assert lines.read_text() == "".join(f"{number}\n" for number in range(1000000, 1100000))


def test_sqlite(mounted: tuple[Engine, Client, Path]) -> None:
    engine, client, target = mounted
    for mode in ("delete", "wal"):
        script = f"""PRAGMA journal_mode={mode}; CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
INSERT INTO t SELECT i, hex(randomblob(50)) FROM n;
BEGIN; UPDATE t SET b = 'x' || b WHERE a % 3 = 0; ROLLBACK; DELETE FROM t WHERE a % 2 = 0; VACUUM;
PRAGMA integrity_check; SELECT count(*) FROM t;"""  # noqa: S608 (the words are our own)
        done = client.run("sqlite3", f"{target}/{mode}.db", script)
        assert done.stdout.split() == [mode, "ok", "2500"]
    client.unmount()
    engine.drain()
    for mode in ("delete", "wal"):
        words = ["sqlite3", f"file:{target}/{mode}.db?immutable=1", "SELECT count(*) FROM t; PRAGMA integrity_check"]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.stdout.split() == ["2500", "ok"]


HDF5_WRITE = """
import sys, h5py, numpy
with h5py.File(sys.argv[1], "w") as file:
    steps = file.create_dataset("steps", (0, 300), "f8", maxshape=(None, 300), chunks=(7, 300), compression="gzip")
    for n in range(100):
        steps.resize(n + 1, axis=0)
        steps[n] = numpy.sqrt(numpy.arange(300) + n)
        if n % 10 == 0:
            file.flush()
    file.create_group("more").attrs["units"] = "K"
with h5py.File(sys.argv[1], "r+") as file:
    file["steps"][50:60] = 0
    del file["more"]
"""
HDF5_CHECK = """
import sys, h5py, numpy
wanted = numpy.sqrt(numpy.arange(300) + numpy.arange(100)[:, None])
wanted[50:60] = 0
with h5py.File(sys.argv[1], "r") as file:
    assert list(file) == ["steps"] and (file["steps"][:] == wanted).all()
"""


def test_hdf5(mounted: tuple[Engine, Client, Path]) -> None:
    engine, client, target = mounted
    client.run(PYTHON, "-c", HDF5_WRITE, f"{target}/run.h5")
    client.run(PYTHON, "-c", HDF5_CHECK, f"{target}/run.h5")
    client.unmount()
    engine.drain()
    subprocess.run([PYTHON, "-c", HDF5_CHECK, f"{target}/run.h5"], check=True)


def test_git_clone_and_build(mounted: tuple[Engine, Client, Path], folder: Path) -> None:
    engine, client, target = mounted
    source = folder / "source"
    source.mkdir()
    (source / "Makefile").write_text("hello: main.o words.o\n\tgcc -static -o $@ $^\n%.o: %.c\n\tgcc -O2 -c -o $@ $<\n")
    (source / "main.c").write_text("void words(void); int main(void) { words(); return 0; }\n")
    (source / "words.c").write_text('#include <stdio.h>\nvoid words(void) { puts("hello from a target"); }\n')
    for number in range(100):
        (source / f"file{number}").write_text(f"{number}\n" * number)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "safe.directory=*"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run(
            [*git, "-C", str(source), *words], check=True, env={"PATH": os.environ["PATH"], "HOME": str(folder)}
        )
    subprocess.run(["chown", "-R", f"{UID}:{UID}", str(source)], check=True)
    home = ["env", f"HOME={target}", "git", "-c", "safe.directory=*"]
    client.run(*home, "clone", "-q", str(source), f"{target}/clone")
    client.run("make", "-s", "-C", f"{target}/clone")
    assert client.run(f"{target}/clone/hello").stdout == "hello from a target\n"
    assert "hello" in client.run(*home, "-C", f"{target}/clone", "status", "--short").stdout
    client.run(*home, "-C", f"{target}/clone", "fsck", "--strict")
    client.run(*home, "-C", f"{target}/clone", "gc", "-q")
    client.unmount()
    engine.drain()
    assert subprocess.run([target / "clone/hello"], capture_output=True).stdout == b"hello from a target\n"
    fsck = subprocess.run([*git, "-C", str(target / "clone"), "fsck", "--strict"], capture_output=True, text=True)
    assert fsck.returncode == 0, fsck.stderr
    clean = subprocess.run([*git, "-C", str(target / "clone"), "diff", "--stat"], capture_output=True, text=True)
    assert clean.stdout == ""


def test_tar_keeps_everything(mounted: tuple[Engine, Client, Path], folder: Path) -> None:
    engine, client, target = mounted
    tree = folder / "tree"
    (tree / "d").mkdir(parents=True)
    for number in range(200):
        (tree / f"d/f{number}").write_bytes(os.urandom(number * 97))
        os.utime(tree / f"d/f{number}", ns=(number, 10**18 + number))
    os.link(tree / "d/f7", tree / "hard")
    os.symlink("d/f8", tree / "soft")
    (tree / "mode").write_text("x")
    (tree / "mode").chmod(0o751)
    with (tree / "sparse").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"end")
    archive = folder / "tree.tar"
    subprocess.run(["tar", "--format=posix", "-C", tree, "-cf", archive, "."], check=True)
    client.run("tar", "-C", str(target), "-xf", str(archive), "--no-same-owner")
    assert client.run("tar", "-C", str(target), "-df", str(archive), check=False).stderr == ""
    client.run(
        "sh",
        "-c",
        f"cd {target} && tar --sparse -cf again.tar d hard soft mode sparse && mkdir x && tar -C x -xf again.tar",
    )
    client.unmount()
    engine.drain()
    for copy in (target, target / "x"):
        for path in ("d", "hard", "soft", "mode", "sparse"):
            done = subprocess.run(
                ["diff", "-r", "--no-dereference", tree / path, copy / path], capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout
    assert (target / "d/f9").stat().st_mtime_ns == 10**18 + 9
    assert (target / "hard").stat().st_ino == (target / "d/f7").stat().st_ino
    assert (target / "mode").stat().st_mode & 0o777 == 0o751


@pytest.mark.parametrize("mode", ["randrw", "write"])
@pytest.mark.parametrize("how", ["psync", "mmap", "libaio"])
def test_fio_verifies_what_it_wrote(mounted: tuple[Engine, Client, Path], mode: str, how: str) -> None:
    _, client, target = mounted
    fio(client, target, mode, how)


@pytest.mark.parametrize("store", [False, True], ids=["memory", "store"])
def test_fio_verifies_what_it_wrote_over_tcp(buffer: Make, store: bool) -> None:
    engine = buffer(servers=2, store=store, unix=False, settings=SETTINGS)
    client = engine.client()
    for mode, how in (("randrw", "psync"), ("randrw", "libaio"), ("write", "mmap")):
        fio(client, Path(str(engine.target)), mode, how)
    assert client.transports() == {"tcp"}


def fio(client: Client, target: Path, mode: str, how: str) -> None:
    direct = "1" if how == "libaio" else "0"
    words = [f"--directory={target}", f"--rw={mode}", f"--ioengine={how}", f"--direct={direct}", "--bsrange=4k-64k"]
    words += [
        "--name=v",
        "--size=6m",
        "--numjobs=3",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--bs_unaligned=0",
    ]
    client.run("fio", *words, "--iodepth=4", "--fallocate=none", "--group_reporting", timeout=120)


def test_a_static_binary_and_links_between_files(mounted: tuple[Engine, Client, Path]) -> None:
    _, client, target = mounted
    busy = shutil.which("busybox")
    program = client.run("sh", "-c", f"""
cat > {target}/p.c <<'X'
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int n, char **w) {{
	int f = open(w[1], O_RDWR | O_CREAT, 0644);
	if (f < 0 || ftruncate(f, 10000)) return 1;
	char *m = mmap(0, 10000, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
	if (m == MAP_FAILED) return 2;
	m[9999] = 'e'; m[0] = 'b';
	if (msync(m, 10000, MS_SYNC) || pwrite(f, "xyz", 3, 5000) != 3) return 3;
	return m[5001] == 'y' ? n - 2 : 4;
}}
X
cd {target} && gcc -static -o p p.c && ./p data && head -c 1 data && tail -c 1 data""")  # fmt: skip
    assert program.stdout == "be"
    assert busy is None or client.run(busy, "cat", f"{target}/p.c").returncode == 0
