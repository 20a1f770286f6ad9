"""The wires' words: what docs/interfaces.md shows reads and writes back the same; anything else is refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ebb.errors import UserError
from ebb.layout import Layout
from ebb.model import Backend, BufferState, Directive, Phase, Resources, ServiceSpec, ServiceType, Status, Verb

INTERFACES = (Path(__file__).parents[3] / "docs" / "interfaces.md").read_text()


def documented(heading: str) -> dict[str, Any]:
    """The first JSON object behind `heading` in docs/interfaces.md."""
    block = re.search(re.escape(heading) + r"\n+((?:    .*\n)+)", INTERFACES)
    assert block, heading
    found: dict[str, Any] = json.loads(block[1])
    return found


SPEC = documented("Service spec:")
STATUS = documented("Status:")


@pytest.mark.parametrize(("kind", "wire"), [(ServiceSpec, SPEC), (Status, STATUS)])
def test_documented_example_reads_and_writes_back(kind: Any, wire: dict[str, Any]) -> None:
    assert json.loads(json.dumps(kind.from_wire(wire).to_wire())) == wire


def test_spec_fields() -> None:
    spec = ServiceSpec.from_wire(SPEC)
    assert (spec.type, spec.backend, spec.storage_size) == (ServiceType.GBF, Backend.LVM, 1 << 30)
    assert spec.data_src is None
    assert spec == ServiceSpec.from_wire(dict(SPEC))


def test_bare_status_reads_and_writes_back() -> None:
    bare = Status("42-2", ServiceType.GBF, "toto", 1000, Phase.CREATING, 0)
    assert Status.from_wire(bare.to_wire()) == bare


def test_documented_phases_and_states() -> None:
    line = re.search(r"^Phases: (.*?)\. `progress`", INTERFACES, re.MULTILINE | re.DOTALL)
    assert line
    assert set(re.findall(r"`([a-z-]+)`", line[1])) - {"error", "discard"} == set(Phase)
    assert " ".join(BufferState) == "staging-in staged-in staging-out staged-out teardown"
    assert {phase for phase in Phase if phase.failed} <= {phase for phase in Phase if phase.settled}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sid": 42}, "field sid is 42, expected a text"),
        ({"sid": "../42"}, r"field sid is '\.\./42', expected <job id>"),
        ({"sid": "42-0"}, "field sid"),
        ({"sid": "42-2-2"}, "field sid"),
        ({"sid": "43"}, r"field sid is '43', expected 42 \(the bbid\) or 42-<n>"),
        ({"bbid": "42"}, "field bbid is '42', expected a whole number, 1 or more"),
        ({"bbid": True}, "field bbid is True"),
        ({"type": "gbf"}, "field type is 'gbf', expected one of SBB, GBF, DASI, KVSNS"),
        ({"type": None}, "field type is None"),
        ({"name": "a/b"}, "field name is 'a/b', expected a plain name"),
        ({"name": "a b"}, "field name"),
        ({"name": "-rf"}, "field name"),
        ({"name": "$(id)"}, "field name"),
        ({"name": "n" * 300}, "field name is '" + "n" * 76 + r"\.\.\., expected"),
        ({"uid": -1}, "field uid is -1, expected a whole number, 0 or more"),
        ({"storage_size": 0}, "field storage_size is 0"),
        ({"storage_size": 1e9}, "field storage_size"),
        ({"backend": "zfs"}, "field backend is 'zfs', expected one of lvm, file"),
        ({"volume_group": ".."}, "field volume_group"),
        ({"path": "mnt"}, "field path is 'mnt', expected an absolute path"),
        ({"path": "/a\nb"}, "field path"),
        ({"data_dst": ""}, "field data_dst is '', expected a text"),
        ({"data_dst": 3}, "field data_dst is 3"),
        ({"colour": "red"}, "unknown field 'colour', expected backend, bbid"),
    ],
)
def test_spec_refuses_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match="^service spec: " + message):
        ServiceSpec.from_wire(SPEC | change)


OPTIONAL = ("sbb", "data_src", "data_dst", "object_store", "layout")


@pytest.mark.parametrize("name", [name for name in SPEC if name not in OPTIONAL])
def test_spec_misses_by_name(name: str) -> None:
    with pytest.raises(UserError, match=f"field {name} is missing, expected"):
        ServiceSpec.from_wire({key: value for key, value in SPEC.items() if key != name})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phase": "done"}, "status: field phase is 'done', expected one of creating"),
        ({"progress": {"done": 1, "total": 2}}, "status: progress: field rate is missing"),
        ({"progress": {"done": 1, "total": 2, "rate": float("nan")}}, "status: progress: field rate"),
        ({"mounts": [{"address": "a", "port": 0, "export": "/e", "data": "/d"}]}, "status: mounts: field port is 0"),
        ({"mounts": [[]]}, r"status: mounts: got \[\], expected a JSON object"),
        ({"volumes": [{"backend": "lvm"}]}, "status: volumes: field volume_group is missing"),
        ({"daemons": {}}, "status: field daemons is {}, expected a list"),
        ({"daemons": [{"pid": 0}]}, "status: daemons: field pid is 0"),
        ({"jobs": {"43": "10.0.0.1"}}, "status: jobs: field 43 is '10.0.0.1', expected a list"),
        ({"jobs": {"43": [""]}}, "status: jobs: field address is ''"),
        ({"error": 7}, "status: field error is 7"),
    ],
)
def test_status_refuses_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match="^" + message):
        Status.from_wire(STATUS | change)


@pytest.mark.parametrize("read", [ServiceSpec.from_wire, Status.from_wire, Directive.from_wire])
@pytest.mark.parametrize("data", [None, [], "x", 3])
def test_not_an_object(read: Callable[[object], object], data: object) -> None:
    with pytest.raises(UserError, match="expected a JSON object"):
        read(data)


def test_directive() -> None:
    args = {"Name": "toto", "StorageSize": "1073741824"}
    wire = {"line": 3, "type": "GBF", "verb": "create_persistent", "args": args}
    directive = Directive.from_wire(wire)
    assert (directive.type, directive.verb, directive.name) == (ServiceType.GBF, Verb.CREATE_PERSISTENT, "toto")
    assert directive.to_wire() == wire
    with pytest.raises(UserError, match="directive on line 3: args: field StorageSize is 5, expected a text"):
        Directive.from_wire(wire | {"args": {"Name": "toto", "StorageSize": 5}})
    with pytest.raises(UserError, match="directive on line 3: args: field Name is missing"):
        Directive.from_wire(wire | {"args": {}})
    with pytest.raises(UserError, match="directive: field verb is 'drop', expected one of create_persistent"):
        Directive.from_wire(wire | {"verb": "drop"})


def test_resources_add_and_multiply() -> None:
    assert Resources(1, 2, 3) + Resources(10, 20, 30) == Resources(11, 22, 33)
    assert Resources(1, 2, 3).times(4) == Resources(4, 8, 12)


@pytest.mark.parametrize("layout", [Layout(), Layout(stripes=2, stripe_size=1 << 17), Layout(thin_pool="pool")])
def test_a_spec_says_how_its_volumes_lie(layout: Layout) -> None:
    spec = replace(ServiceSpec.from_wire(SPEC), layout=layout)
    assert ServiceSpec.from_wire(json.loads(json.dumps(spec.to_wire()))) == spec


def test_a_spec_of_an_older_release_is_linear() -> None:
    older = {name: value for name, value in SPEC.items() if name != "layout"}
    assert ServiceSpec.from_wire(older).layout == Layout()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layout": {"stripes": 0, "stripe_size": 0, "thin_pool": None}}, "stripes is 0, expected"),
        ({"layout": {"stripes": 2, "stripe_size": 0, "thin_pool": "p"}}, "thin_pool is 'p', expected null where"),
        ({"layout": {"stripes": 1, "stripe_size": 0, "thin_pool": "-p"}}, "thin_pool is '-p', expected a plain name"),
        ({"layout": {"stripes": 2, "stripe_size": 0, "thin_pool": None}, "backend": "file"}, "layout is .*, expected"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ServiceSpec.from_wire(SPEC | change)
