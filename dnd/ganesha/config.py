"""The configuration of one Ganesha (ganesha-core-config(8), ganesha-export-config(8), NFS-Ganesha 4.3)."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ebb.errors import UserError

# One client's largest read or write, as the kernel's NFS client has it; Ganesha's own default of 64 MiB costs memory.
_LARGEST_IO = 1 << 20


@dataclass(frozen=True, slots=True)
class GaneshaConfig:
    """One server for one buffer. number: the n of `ganesha_<n>`, its export id; folder: where all its files are."""

    number: int
    address: str
    port: int
    folder: Path

    @property
    def data(self) -> Path:
        """Where the buffer's file system is mounted."""
        return self.folder / "data"

    @property
    def file(self) -> Path:
        """The configuration file; its path on the command line is what the process is found by."""
        return self.folder / "ganesha.conf"

    @property
    def log(self) -> Path:
        """Ganesha's log."""
        return self.folder / "ganesha.log"

    @property
    def export(self) -> str:
        """The export's name in NFS 4's pseudo file system."""
        return f"/ganesha_{self.number}"

    def write(self, clients: Iterable[str]) -> None:
        """Write the file aside and rename it: a server that reads it meanwhile sees the old or the new one."""
        aside = self.file.with_suffix(".new")
        aside.write_text(self.text(clients))
        os.replace(aside, self.file)

    def text(self, clients: Iterable[str]) -> str:
        """The whole configuration; only `clients` (addresses) may use the export, nobody if there are none.

        Root on this node may look it up besides, and nothing more, so that a health check sees whether it is served.
        """
        return f"""\
# Written by dnd, which overwrites it.
NFS_CORE_PARAM {{
    NFS_Port = {self.port};
    Bind_addr = {self.address};
    Protocols = 4;
    Enable_UDP = false;
    Enable_NLM = false;
    Enable_RQUOTA = false;
    Clustered = false;
}}
NFSv4 {{
    # Nobody waits for a grace period, neither at creation nor when a server that died is started again.
    Graceless = true;
    RecoveryBackend = fs;
    RecoveryRoot = "{self.folder}/recovery";
    Minor_Versions = 1, 2;
    # Numbers only, and no name service asked: one that hangs would hang the start.
    Only_Numeric_Owners = true;
    UseGetpwnam = true;
}}
NFS_KRB5 {{ Active_krb5 = false; }}
MDCACHE {{ Entries_HWMark = 50000; }}
LOG {{ Default_Log_Level = EVENT; }}
EXPORT {{
    Export_Id = {self.number};
    Path = "{self.data}";
    Pseudo = {self.export};
    Protocols = 4;
    Transports = TCP;
    Access_Type = None;
    Squash = Root_Squash;
    SecType = sys;
    # A node is shared: its kernel speaks for the job from a port that only root may take, its users' programs cannot.
    PrivilegedPort = true;
    MaxRead = {_LARGEST_IO};
    MaxWrite = {_LARGEST_IO};
    PrefRead = {_LARGEST_IO};
    PrefWrite = {_LARGEST_IO};
    FSAL {{ Name = VFS; }}
{self._client_block(clients)}}}
"""

    def _client_block(self, clients: Iterable[str]) -> str:
        addresses = sorted({str(checked_address(client)) for client in clients})
        block = ""
        if addresses:
            block = f"    CLIENT {{ Clients = {', '.join(addresses)}; Access_Type = RW; Protocols = 4; }}\n"
        if self.address not in addresses:
            # Metadata only, and from ports that only root can have: no other user of this node gets anything by it.
            block += (
                f"    CLIENT {{ Clients = {self.address}; Access_Type = MDONLY_RO; PrivilegedPort = true; "
                "Squash = All_Squash; Protocols = 4; }\n"
            )
        return block


def checked_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """A client's address as a number: a name would be asked of a name service, anything else would be configuration."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise UserError(f"client `{text}` is no IP address") from None
