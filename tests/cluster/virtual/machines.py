"""What a virtual cluster consists of: machines with their roles, addresses, memory and disks. Pure."""

from dataclasses import dataclass

from cluster.layout import Layout

MiB = 1 << 20
GiB = 1 << 30
NETWORK = "10.2.19"
HOST_ADDRESS = f"{NETWORK}.254"
"""The bridge's own, for those who ask from outside a node."""


@dataclass(frozen=True)
class Disk:
    """A disk: the file's name and its size in bytes. It is sparse: it costs what was written."""

    name: str
    size: int


@dataclass(frozen=True)
class Machine:
    """A node: its kernel's memory in bytes; `disks` become /dev/ubda, /dev/ubdb, ..., the first for its own files."""

    name: str
    role: str
    address: str
    memory: int
    disks: tuple[Disk, ...]
    services: tuple[str, ...]

    @property
    def tap(self) -> str:
        """Its end of the cluster's bridge; 15 characters at most."""
        return f"tap-{self.name}"[:15]

    @property
    def mac(self) -> str:
        """Its Ethernet address, from the last number of its IPv4 address."""
        return f"02:eb:b0:00:00:{int(self.address.rsplit('.', 1)[1]):02x}"


SYSTEM = Disk("system", 4 * GiB)
VOLUME_GROUPS: dict[str, tuple[str, ...]] = {"ebb": ("ubdb",), "wide": ("ubdc", "ubdd"), "thin": ("ubde",)}
"""Volume groups of a datanode by name, and the disks in each: one, two to stripe over, one with a thin pool."""


def machines(layout: Layout) -> list[Machine]:
    """controller, dn1..., cn1...: the order of starting."""
    ebb = not layout.plain
    controller = Machine(
        "controller", "controller", f"{NETWORK}.1", 448 * MiB, (SYSTEM, Disk("home", 40 * GiB)),
        ("munge", *(("ebb-orchestrator",) if ebb else ()), "slurmctld"),
    )  # fmt: skip
    volumes = tuple(Disk(f"volumes{n}", 6 * GiB) for n in range(1, 5))
    datanodes = [
        Machine(f"dn{n}", "datanode", f"{NETWORK}.{210 + n}", 768 * MiB, (SYSTEM, *volumes),
                ("munge", *(("ebb-dnd",) if ebb else ())))
        for n in range(1, layout.datanodes + 1)
    ]  # fmt: skip
    computes = [
        Machine(f"cn{n}", "compute", f"{NETWORK}.{10 + n}", 320 * MiB, (SYSTEM,), ("munge", "slurmd"))
        for n in range(1, layout.computes + 1)
    ]
    return [controller, *datanodes, *computes]
