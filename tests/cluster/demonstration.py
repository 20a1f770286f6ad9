"""The main job on a private cluster: create a burst buffer, use it, save it, and get the data back from the dataset."""

import os
import pty
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from cluster import kinds
from cluster.errors import ClusterError
from cluster.harness import Cluster
from cluster.kinds import Kind
from cluster.layout import DISK, Layout, State
from cluster.narration import Narrator, follow

USER = "alice"
HOME = f"/home/{USER}"
MOUNT = f"{HOME}/mnt"
DATASET = f"{HOME}/datasets/my-dataset"
SIZE = 1 << 30
HEADER = 1 << 20

CREATE = f"""#!/bin/bash
#SBATCH --job-name=create
#BB_LUA GBF create_persistent Name=demo StorageSize=1GiB Path={MOUNT} FSType=ganesha MetaDataServers=0 \
StorageDataServers=1 data_dst={DATASET}
srun hostname
"""
# The job waits in the middle, so that others can look whether they see its file system.
WRITE = f"""#!/bin/bash
#SBATCH --job-name=write
#BB_LUA GBF use_persistent Name=demo
set -e
df --human-readable {MOUNT}
cd {MOUNT}
mkdir small
for ((i = 0; i < 3000; i++)); do echo "file $i $RANDOM" > small/$i; done
head --bytes=300M /dev/urandom > large
find . -type f -print0 | sort --zero-terminated | xargs --null sha256sum > {HOME}/checksums
touch {HOME}/written
for ((i = 0; i < 300; i++)); do [ -e {HOME}/seen ] && exit 0; sleep 0.1; done
exit 1
"""
READ = """#!/bin/bash
#SBATCH --job-name=read
#BB_LUA GBF use_persistent Name={name}
{more}set -e
cd {mount}
sha256sum --check --quiet {home}/checksums
echo "all of $(wc --lines < {home}/checksums) checksums match"
"""
DESTROY = """#!/bin/bash
#SBATCH --job-name=destroy
#BB_LUA GBF destroy_persistent Name=demo
srun hostname
"""
AGAIN = f"""#!/bin/bash
#SBATCH --job-name=again
#BB_LUA GBF create_persistent Name=again StorageSize=1GiB Path={MOUNT} FSType=ganesha \
data_src={DATASET} data_dst={DATASET}
srun hostname
"""


class Demo:
    """The parts of the demo, in their order; each raises ClusterError if something is not as it should be."""

    def __init__(self, cluster: Cluster, tell: Narrator) -> None:
        self.cluster = cluster
        self.tell = tell

    def create(self) -> None:
        """A job that makes the buffer."""
        self.tell.chapter("create: a job makes the burst buffer `demo`; it outlives the job")
        self.cluster.run(USER, ["mkdir", "mnt", "datasets"])
        job = self._submit("create.sh", CREATE)
        follow(self.tell, self.cluster, job, "demo")
        self.cluster.wait_buffer("demo", "staged-in")
        stat = self.cluster.bbstat()
        self.tell.check(stat.totals["used storage"] >= SIZE, "the buffer's storage counts as used", stat.totals)

    def use(self) -> None:
        """A job that writes; meanwhile nobody else sees its file system."""
        self.tell.chapter("use: a job writes 3000 small files and one of 300 MiB, and checksums beside the buffer")
        job = self._submit("use.sh", WRITE)
        home, looked = self.cluster.home(USER), False

        def look_from_outside() -> None:
            nonlocal looked
            if looked or not (home / "written").exists():
                return
            looked = True
            for user, command in ((USER, ["ls", "-A", MOUNT]), ("root", ["ls", "-A", MOUNT]),
                                  (USER, ["srun", "ls", "-A", MOUNT])):  # fmt: skip
                seen = self.cluster.run(user, command).stdout
                where = "in another job" if command[0] == "srun" else "on the login node"
                self.tell.check(seen == "", f"{user} {where} sees nothing at {MOUNT} while the job writes there", seen)
            (home / "seen").touch()

        follow(self.tell, self.cluster, job, "demo", look_from_outside)
        self.tell.check(looked, "the job wrote all of its files")
        self._output(job)

    def read_back(self) -> None:
        """Another job reads, and an interactive step too."""
        self.tell.chapter("use again: another job reads the files back")
        job = self._submit("read.sh", READ.format(name="demo", mount=MOUNT, home=HOME, more=""))
        follow(self.tell, self.cluster, job, "demo")
        self.tell.check("3001 checksums match" in self._output(job), "3001 checksums match")

        self.tell.chapter("use by hand: srun --bb '#BB_LUA GBF use_persistent Name=demo' --pty bash")
        command = ["srun", "--bb", "#BB_LUA GBF use_persistent Name=demo", "--pty", "bash", "--norc"]
        shown = self._on_terminal(command, f"df --human-readable {MOUNT}\nls {MOUNT}/small | wc --lines\nexit\n")
        self.tell.show(shown)
        self.tell.check("\n3000" in shown, "the interactive shell sees the 3000 files")

    def destroy(self) -> None:
        """The dataset is saved, everything is free."""
        self.tell.chapter("destroy: the content is saved as a dataset file, then everything is free again")
        job = self._submit("destroy.sh", DESTROY)
        follow(self.tell, self.cluster, job, "demo")
        self._check_free("demo")
        self.tell.show(self.cluster.run(USER, ["ls", "-ls", DATASET]).stdout)
        owner, size = self.cluster.run(USER, ["stat", "--format=%U %s", DATASET]).stdout.split()
        self.tell.check(owner == USER, f"the dataset belongs to {USER}", owner)
        self.tell.check(int(size) == HEADER + SIZE, "it is 1 MiB of header and 1 GiB of image long", size)

    def again(self) -> None:
        """The data comes back in a buffer of another name."""
        self.tell.chapter("again: a new buffer from that dataset; a job compares the checksums, then destroys it")
        job = self._submit("again.sh", AGAIN)
        follow(self.tell, self.cluster, job, "again")
        more = "#BB_LUA GBF destroy_persistent Name=again\n"
        job = self._submit("read-again.sh", READ.format(name="again", mount=MOUNT, home=HOME, more=more))
        follow(self.tell, self.cluster, job, "again")
        self.tell.check("3001 checksums match" in self._output(job), "3001 checksums match")
        self.cluster.wait_buffer("again", None)
        self._check_free("again")

    def _submit(self, name: str, script: str) -> int:
        self.tell.say(f"sbatch {name}")
        self.tell.show(script)
        return self.cluster.sbatch(USER, script)

    def _output(self, job: int) -> str:
        text = (self.cluster.home(USER) / f"slurm-{job}.out").read_text()
        self.tell.show(text)
        return text

    def _check_free(self, name: str) -> None:
        stat = self.cluster.bbstat()
        self.tell.show("\n".join(ln for ln in self.cluster.bbstat_text().splitlines() if "FA: BB" not in ln))
        self.tell.check(stat.state(name) in (None, "staged-out"), f"the buffer `{name}` is gone", stat.buffer(name))
        used = {what: size for what, size in stat.totals.items() if what.startswith("used") and size}
        self.tell.check(not used, "no storage and no memory is used", used)

    def _on_terminal(self, command: list[str], typed: str, deadline: float = 60) -> str:
        """Run a user's command on a terminal of its own, type, and return all that the screen showed."""
        words = [*self.cluster.kind.enter("controller", USER), *command]
        pid, terminal = pty.fork()
        if pid == 0:
            os.execvp(words[0], words)  # noqa: S606 (no shell is wanted)
        os.write(terminal, typed.encode())
        shown, end = b"", time.monotonic() + deadline
        try:
            while chunk := os.read(terminal, 4096):
                shown += chunk
                if time.monotonic() > end:
                    os.kill(pid, signal.SIGKILL)
        except OSError:  # the terminal's end
            pass
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.close(terminal)
        text = re.sub(r"\x1b\[\?2004[hl]|\r", "", shown.decode(errors="replace"))  # bash's bracketed-paste switches
        self.tell.check(code == 0, "the interactive step ended well", f"code {code}: {text}")
        return text


def interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does."""
    raise KeyboardInterrupt(signal.Signals(number).name)


def perform(kind: Kind, state: State, tell: Narrator) -> None:
    """Everything between up and down."""
    tell.chapter("up: a private Slurm with two compute nodes and two datanodes, in namespaces of its own")
    kind.up(tell.say)
    demo = Demo(Cluster(kind, state), tell)
    demo.create()
    demo.use()
    demo.read_back()
    demo.destroy()
    demo.again()


def main() -> int:
    """Run the demo; the exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    tell = Narrator()
    folder = Path(tempfile.mkdtemp(prefix="ebb-demo-", dir=DISK))
    state = State(folder / "state", "local", Layout(computes=2, datanodes=2))
    kind = kinds.of(state, tied=True)
    failed = ""
    try:
        perform(kind, state, tell)
    except KeyboardInterrupt:
        failed = "interrupted"
    except (ClusterError, OSError) as error:
        failed = str(error)
        for process in ("orchestrator", "dn1", "dn2", "slurmctld"):
            print(f"the end of {process}'s log:")
            tell.show("\n".join(_tail(state.log / f"{process}.log")))
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # taking down is quick, and must not be left half done
        tell.chapter("down")
        try:
            if state.record.exists():
                kind.down(tell.say)
            shutil.rmtree(folder)
        except (ClusterError, OSError) as error:
            failed = failed or str(error)
    if failed:
        print(f"\ndemo FAILED after {tell.seconds:.1f} s: {failed}", file=sys.stderr)
        return 1
    print(f"\ndemo passed: {tell.checks} checks in {tell.seconds:.1f} s")
    return 0


def _tail(path: Path, lines: int = 12) -> list[str]:
    return path.read_text(errors="replace").splitlines()[-lines:] if path.exists() else []


if __name__ == "__main__":
    sys.exit(main())
