"""What is decided in Python before C mounts: sources, options, order."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebb.errors import EbbError, EnvironmentFault
from ebb.ticket import SiteKey, Ticket, TicketMount
from spank.plan import Address, Step, encode, source

STEP = Step(job=1, uid=2001, gid=2002, groups=(2002, 100), ticket="secret")
KEY = SiteKey(b"k" * 32)
LOCAL, AWAY = Address("10.0.0.1", local=True), Address("10.0.0.1", local=False)


def buffer(path: str = "/home/alice/mnt", data: str = "/nonexistent", address: str = "dn1") -> TicketMount:
    return TicketMount(
        sid="7", name="toto", type="GBF", path=path, address=address, port=20490, export="/ganesha_7", data=data
    )


def test_the_datanode_itself_binds_the_data(tmp_path: Path) -> None:
    assert source(buffer(data=str(tmp_path)), lambda _: LOCAL) == ("bind", str(tmp_path), "")


def test_another_node_mounts_nfs_even_where_such_a_folder_exists(tmp_path: Path) -> None:
    kind, what, options = source(buffer(data=str(tmp_path)), lambda _: AWAY)
    assert (kind, what) == ("nfs4", "10.0.0.1:/ganesha_7")
    assert {"vers=4.1", "port=20490", "addr=10.0.0.1", "proto=tcp", "hard"} <= set(options.split(","))


def test_an_address_of_this_node_without_the_data_is_nfs_too() -> None:
    """Two datanode daemons behind one address, in containers say."""
    assert source(buffer(), lambda _: LOCAL)[0] == "nfs4"


def test_ipv6() -> None:
    _, what, options = source(buffer(), lambda _: Address("fd00::1", local=False))
    assert what == "[fd00::1]:/ganesha_7"
    assert "addr=fd00::1" in options.split(",")


def test_a_host_that_nobody_knows() -> None:
    with pytest.raises(EnvironmentFault, match="toto is on dn1"):
        source(buffer(), lambda _: None)


def test_the_plan_as_c_reads_it() -> None:
    ticket = Ticket(1, 2001, 2002, 1 << 40, (buffer("/home/alice/a/b/"), buffer("/home/alice/a")))
    fields = encode(STEP, ticket, KEY, ["/home", "/scratch"], lambda _: AWAY).decode().split("\0")
    assert fields[:9] == ["ebb-plan-1", "2001", "2002", "2", "2002", "100", "2", "/home", "/scratch"]
    assert fields[9] == "2"
    assert [fields[14], fields[19]] == ["/home/alice/a", "/home/alice/a/b"]  # outer before inner
    assert fields[20:] == [""]


@pytest.mark.parametrize("path", ["relative", "/a/../b", "/a\tb", "/", "/a\x7f"])
def test_mountpoints_that_cannot_be(path: str) -> None:
    with pytest.raises(EbbError, match="toto"):
        encode(STEP, Ticket(1, 2001, 2002, 1 << 40, (buffer(path),)), KEY, ["/home"], lambda _: AWAY)


def test_a_step_does_not_show_its_ticket() -> None:
    assert "secret" not in repr(STEP)
