"""What an application does, timed: run where a file system is mounted, with the system's Python. Prints seconds.

sbb_work.py write|read|small|buffered|random|create|stat FOLDER PROCESSES
"""

import os
import random
import sys
import time

MIB = 1 << 20
LARGE, SMALL, FILES = 384 * MIB, 48 * MIB, 600
DATA = os.urandom(MIB)
"""What is written; making it takes longer than writing it, so it is there before the clock starts."""


def write(name: str, processes: int) -> None:
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for _ in range(LARGE // MIB // processes):
        os.write(file, DATA)
    os.close(file)


def read(name: str, processes: int) -> None:
    file = os.open(name, os.O_RDONLY)
    while os.read(file, MIB):
        pass
    os.close(file)


def small(name: str, processes: int) -> None:
    piece, file = DATA[:4096], os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for _ in range(SMALL // 4096):
        os.write(file, piece)
    os.close(file)


def buffered(name: str, processes: int) -> None:
    """As Python programs write: pieces go to a buffer first, which is of the file's st_blksize."""
    piece = DATA[:4096]
    with open(name, "wb") as file:
        for _ in range(SMALL // 4096):
            file.write(piece)


def scattered(name: str, processes: int) -> None:
    piece, file = DATA[:4096], os.open(name, os.O_RDWR | os.O_CREAT)
    chance = random.Random(1)
    for _ in range(SMALL // 4096):
        os.pwrite(file, piece, chance.randrange(SMALL // 4096) * 4096)
    os.close(file)


def create(name: str, processes: int) -> None:
    for number in range(FILES):
        os.close(os.open(f"{name}.{os.getpid()}.{number}", os.O_WRONLY | os.O_CREAT))


def examine(name: str, processes: int) -> None:
    for number in range(FILES):
        os.stat(f"{name}.{number}")


def prepare(what: str, folder: str, processes: int) -> None:
    """Files to look at, with nothing of them left in the kernel's cache: all of these keep names a second at most."""
    if what == "stat":
        for number in range(FILES):
            os.close(os.open(os.path.join(folder, f"other0.{processes}.{number}"), os.O_WRONLY | os.O_CREAT))
        time.sleep(1.1)


WORK = {
    "write": write,
    "read": read,
    "small": small,
    "buffered": buffered,
    "random": scattered,
    "create": create,
    "stat": examine,
}


def main(what: str, folder: str, processes: int) -> None:
    prepare(what, folder, processes)
    start = time.perf_counter()
    children = []
    for number in range(processes):
        name = os.path.join(folder, f"{'large' if what in ('write', 'read') else 'other'}{number}.{processes}")
        child = os.fork()
        if not child:
            WORK[what](name, processes)
            os._exit(0)
        children.append(child)
    ended = [os.waitpid(child, 0)[1] for child in children]
    print(time.perf_counter() - start)
    sys.exit(any(ended))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
