"""`ebb dataset`: what people see of a dataset file, whole or not, with the site key and without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3
from click.testing import CliRunner, Result

from ebb.cli import main
from ebb.dataset import HEADER_SIZE, HOLE, DatasetHeader, dataset_key
from ebb.object_reader import embedded_data
from unit.dnd import fake_hestia

MIB = 1 << 20
SITE_KEY = b"s" * 32


@pytest.fixture()
def dataset(tmp_path: Path) -> Path:
    """Five chunks: data, hole, data, hole, a short one."""
    chunks = [os.urandom(MIB), bytes(MIB), b"x" + bytes(MIB - 1), bytes(MIB), os.urandom(5000)]
    image = b"".join(chunks)
    digests = tuple(blake3(each).digest() if each.strip(b"\0") else HOLE for each in chunks)
    notes = {"name": "mydata", "sid": "42", "datanode": "dn1\n\x1b[31m"}
    header = DatasetHeader(len(image), MIB, digests, uuid.UUID(int=7), 1_700_000_000, 0, 0, notes)
    path = tmp_path / "mydata"
    with path.open("wb") as file:
        file.write(header.pack(dataset_key(SITE_KEY)))
        for number, chunk in enumerate(chunks):
            file.seek(HEADER_SIZE + number * MIB)
            file.write(chunk if chunk.strip(b"\0") else b"")
    return path


def ebb(folder: Path, *arguments: str, key: bytes | None = None) -> Result:
    (folder / "ebb.conf").write_text(f"SiteKey={folder}/key\n")
    if key is not None:
        (folder / "key").write_bytes(key)
    return CliRunner().invoke(main, ["--config", str(folder / "ebb.conf"), "dataset", *arguments])


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_info_tells_what_the_header_says(dataset: Path) -> None:
    shown = ebb(dataset.parent, "info", str(dataset)).output
    assert "4199304 bytes" in shown and "5 of 1MiB, 3 with data" in shown and "uid 0 (root)" in shown
    assert "mydata" in shown and "not checked" in shown and "mount -o loop,offset=1MiB,ro" in shown
    assert "\x1b" not in shown
    told = json.loads(ebb(dataset.parent, "info", "--json", str(dataset)).output)
    assert told["note_sid"] == "42" and told["file_system"].endswith(str(uuid.UUID(int=7)))


@pytest.mark.parametrize(
    ("key", "seal"),
    [(SITE_KEY, "right"), (b"o" * 32, "WRONG"), (None, "not checked")],
)
def test_info_tells_what_is_known_of_the_seal(dataset: Path, key: bytes | None, seal: str) -> None:
    result = ebb(dataset.parent, "info", str(dataset), key=key)
    assert result.exit_code == 0 and seal in result.output


def test_verify_believes_a_whole_file(dataset: Path) -> None:
    result = ebb(dataset.parent, "verify", str(dataset), key=SITE_KEY)
    assert result.exit_code == 0 and "whole; 5 chunks" in result.output and "seal right" in result.output


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (HEADER_SIZE + 17, "1 of 5 chunks are not what was saved, the first at byte 1048576"),
        (HEADER_SIZE + MIB + 5, "the first at byte 2097152"),  # in a hole
        (HEADER_SIZE + 4 * MIB + 4999, "the first at byte 5242880"),  # the last byte
        (65536 + 32, "the first at byte 2097152"),  # in the map
        (0, "is no dataset"),
        (17, "has dataset format"),
        (41, "do not make"),
    ],
)
def test_verify_finds_a_flipped_bit(dataset: Path, at: int, message: str) -> None:
    flip(dataset, at)
    result = ebb(dataset.parent, "verify", str(dataset))
    assert result.exit_code == 1 and message in result.output, result.output


def test_with_the_key_a_changed_header_is_no_dataset_of_this_site(dataset: Path) -> None:
    flip(dataset, 64)
    result = ebb(dataset.parent, "verify", str(dataset), key=SITE_KEY)
    assert result.exit_code == 1 and "not what this site wrote" in result.output


def test_what_is_no_dataset_is_told_apart(dataset: Path) -> None:
    folder = dataset.parent
    os.mkfifo(folder / "fifo")
    (folder / "text").write_text("no dataset")
    os.truncate(dataset, HEADER_SIZE + MIB)
    for name, message in (
        ("fifo", "no regular file"),
        (".", "no regular file"),
        ("text", "is no dataset: 10 bytes"),
        ("none", "No such file"),
        ("mydata", "is cut short: 2097152 bytes of 5247880"),
    ):
        result = ebb(folder, "verify", str(folder / name))
        assert result.exit_code == 1 and message in result.output, result.output


# A dataset of two objects


@pytest.fixture()
def objects(dataset: Path) -> Path:
    """The same as two objects of an embedded store; the file that names them."""
    folder = dataset.parent / "store"
    content = dataset.read_bytes()
    image = content[HEADER_SIZE:]
    header = DatasetHeader.unpack(content[:HEADER_SIZE], dataset_key(SITE_KEY))
    chunks = [image[at : at + MIB] for at in range(0, len(image), MIB)]
    data = b"".join(chunk for chunk, digest in zip(chunks, header.digests, strict=True) if digest != HOLE)
    notes = {**header.notes, "data_object": "the-data", "data_size": str(len(data))}
    front = replace(header, notes=notes).pack(dataset_key(SITE_KEY))
    for object_id, found in (("the-header", front), ("the-data", data)):
        path = embedded_data(folder, 0, object_id)
        path.parent.mkdir(parents=True)
        path.write_bytes(found)
    pair = dataset.parent / "pair"
    pair.write_text("the-header\nthe-data\n")
    return pair


def test_a_dataset_of_two_objects_is_looked_into_and_verified(objects: Path) -> None:
    store = f"--store={objects.parent}/store"
    for name in (str(objects), f"HESTIA@{objects}"):
        shown = ebb(objects.parent, "info", name, store, key=SITE_KEY).output
        assert "4199304 bytes" in shown and "seal:              right" in shown and "mount" not in shown
        assert "header object:     the-header" in shown and "the-data, 2102152 bytes" in shown
        assert ": whole; 5 chunks" in ebb(objects.parent, "verify", name, store).output
    data = embedded_data(objects.parent / "store", 0, "the-data")
    flip(data, MIB + 5)
    found = ebb(objects.parent, "verify", str(objects), store)
    assert found.exit_code == 1 and "the-data is damaged: bytes 2097152 and on" in found.output
    flip(data, MIB + 5)
    os.truncate(data, MIB + 5)
    assert "the-data is cut short: it ends at byte 1048581" in ebb(objects.parent, "verify", str(objects), store).output
    flip(embedded_data(objects.parent / "store", 0, "the-header"), 70_000)
    assert "not what this site wrote" in ebb(objects.parent, "verify", str(objects), store, key=SITE_KEY).output


def test_where_the_store_is_comes_from_datanodes_conf_or_is_asked_for(objects: Path) -> None:
    conf = objects.parent / "datanodes.conf"
    (objects.parent / "ebb.conf").write_text(f"SiteKey={objects.parent}/key\nDatanodesConf={conf}\n")
    call = ["--config", str(objects.parent / "ebb.conf"), "dataset", "verify", str(objects)]
    asked = CliRunner().invoke(main, call)
    assert asked.exit_code == 1 and "say --store URL or FOLDER; or stage it in" in asked.output
    conf.write_text(
        "NodeName=dn1 NodeAddr=10.0.0.1 MemorySize=1GB Cores=1 VolumeGroup=ebb StorageSize=1TB\n"
        f"ObjectStore=embedded Location={objects.parent}/store Tiers=2\n"
    )
    assert ": whole" in CliRunner().invoke(main, call).output


def test_hestias_objects_are_read_with_the_users_token(objects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_hestia.running() as server:
        server.redirects = True
        for object_id in ("the-header", "the-data"):
            server.objects[object_id] = {"id": object_id}
            server.data[object_id] = {0: embedded_data(objects.parent / "store", 0, object_id).read_bytes()}
        call = ("verify", f"HESTIA@{objects}", f"--store={server.url}")
        assert ": whole" in ebb(objects.parent, *call).output
        monkeypatch.setenv("HESTIA_USER_TOKEN", "another's")
        refused = ebb(objects.parent, *call)
        assert refused.exit_code == 1 and "refuses object the-header to you" in refused.output
        monkeypatch.setenv("HESTIA_USER_TOKEN", fake_hestia.TOKEN)
        assert ": whole" in ebb(objects.parent, *call).output
        del server.objects["the-data"]
        assert "the-data is not in the object store" in ebb(objects.parent, *call).output
        url = server.url
    assert "does not answer" in ebb(objects.parent, "info", str(objects), f"--store={url}").output


def test_a_store_that_is_roots_says_so(objects: Path) -> None:
    store = objects.parent / "store"
    for path in (*objects.parents[:3], objects.parent):
        path.chmod(0o755)
    store.chmod(0o700)
    said = subprocess.run(
        [sys.executable, "-m", "ebb.cli", "dataset", "info", str(objects), f"--store={store}"],
        capture_output=True, text=True, check=False, user=65534, group=65534, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert said.returncode == 1 and "it is root's; run this as root on a datanode, or stage" in said.stderr


def test_the_newest_file_of_a_directory_is_meant_and_malformed_ones_are_told(objects: Path) -> None:
    folder = objects.parent / "many"
    folder.mkdir()
    objects.rename(folder / "old")
    (folder / "new").write_text("one\n")
    os.utime(folder / "old", (1, 1))
    found = ebb(objects.parent, "info", f"HESTIA@{folder}", "--store=/nowhere")
    assert found.exit_code == 1 and f"{folder}/new" not in found.output and "is malformed: 1 lines" in found.output
    (folder / "new").unlink()
    assert "the-header" in ebb(objects.parent, "info", f"HESTIA@{folder}", f"--store={objects.parent}/store").output
