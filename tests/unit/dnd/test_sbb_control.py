"""What a server answers is its owner's word: of any size, at any pace, of any content. It harms nobody else."""

from __future__ import annotations

import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dnd.sbb import control
from ebb.errors import EnvironmentFault

Serve = Callable[[Iterator[bytes]], Path]
GOOD = {"state": "running", "clients": 2, "dirty": 5, "errors": [], "lost": [], "lost_files": 0}


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts a server that answers one question with these pieces; its socket."""
    threads: list[threading.Thread] = []

    def begin(pieces: Iterator[bytes]) -> Path:
        path = tmp_path / f"control{len(threads)}"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            with listener, listener.accept()[0] as connection:
                connection.recv(100)
                try:
                    for piece in pieces:
                        connection.sendall(piece)
                except OSError:
                    pass  # nobody listens any more

        thread = threading.Thread(target=answer)
        thread.start()
        threads.append(thread)
        return path

    yield begin
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def answered(serve: Serve, answer: bytes) -> control.ServerStatus:
    """The status that this answer gives."""
    return control.status(serve(iter([answer + b"\n"])), os.getuid(), timeout=10)


def slowly() -> Iterator[bytes]:
    """A byte now and then, for a long time."""
    for _ in range(50):
        yield b" "
        time.sleep(0.1)


def test_an_answer_in_drops_ends_with_the_time_for_all_of_it(serve: Serve) -> None:
    begun = time.monotonic()
    with pytest.raises(control.Silent, match=r"does not answer `status` at .* within 0.5 s"):
        control.status(serve(slowly()), os.getuid(), timeout=0.5)
    assert time.monotonic() - begun < 2


def test_an_answer_without_end_is_not_read_to_its_end(serve: Serve) -> None:
    endless = itertools.repeat(b"x" * 65536, 1000)
    with pytest.raises(EnvironmentFault, match="more than 1048576 bytes"):
        control.status(serve(endless), os.getuid(), timeout=30)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"no JSON",
        b"[]",
        b"7",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"state":"running","dirty":Infinity}',
        b'{"state":"running","dirty":1e999}',
        b'{"state":"running","dirty":NaN}',
        b'{"state":"running","dirty":-1}',
        b'{"state":"running","dirty":9223372036854775808}',
        b'{"state":"running","dirty":' + b"9" * 10_000 + b"}",
        b'{"state":"running","dirty":"5"}',
        b'{"state":"running","dirty":1.5}',
        b'{"state":"running","dirty":true}',
        b'{"state":"running"}',
        b'{"dirty":5}',
        b'{"state":"dancing","dirty":5}',
        b'{"state":[],"dirty":5}',
        b'{"state":"running","dirty":5,"clients":-1}',
        b'{"state":"running","dirty":5,"lost":7}',
        b'{"state":"running","dirty":5,"lost":[7]}',
        b'{"state":"running","dirty":5,"lost":["x"],"lost_files":-1}',
        b'{"state":"running","dirty":5,"errors":{"path":"x"}}',
        b'{"state":"running","dirty":5,"errors":["x"]}',
        b'{"state":"running","dirty":5,"errors":[{"path":"x"}]}',
        b'{"state":"running","dirty":5,"errors":[{"path":"x","error":null}]}',
    ],
    ids=lambda answer: answer[:60].decode(),
)
def test_what_makes_no_sense_is_told_as_that(serve: Serve, answer: bytes) -> None:
    with pytest.raises(EnvironmentFault, match="answers nonsense to `status`"):
        answered(serve, answer)


def test_names_that_are_not_utf_8_are_shown_and_can_be_written_down(serve: Serve) -> None:
    answer = json.dumps({**GOOD, "lost": ["/t/NAME"], "errors": [{"path": "/t/NAME", "error": "full"}]}).encode()
    found = answered(serve, answer.replace(b"NAME", b"a\xff\xc3\xa4\\ud800\\nz"))
    assert found.lost == ("/t/a\\xff\xe4??z",) and found.errors == ("/t/a\\xff\xe4??z: full",)
    assert json.dumps(found.lost[0], ensure_ascii=False).encode()


def test_long_texts_and_long_lists_are_cut(serve: Serve) -> None:
    names = ["x" * 5000, *(f"name{n}" for n in range(200))]
    found = answered(serve, json.dumps({**GOOD, "lost": names, "lost_files": 3000}).encode())
    assert found.lost[0] == "x" * 2000 + "..." and len(found.lost) == 100 and found.lost_files == 3000
    assert control.listed(found.lost[1:], found.lost_files) == "name0, name1, name2 and 2997 more"


def test_a_refusal_is_shown_in_one_short_line(serve: Serve) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        answered(serve, b'{"error":"no\xff\\n' + b"x" * 5000 + b'"}')
    assert caught.value.text.startswith("sbbd refuses `status`: no\\xff?xxx") and len(caught.value.text) < 2100


def test_an_honest_answer_is_read_in_whatever_pieces_it_comes(serve: Serve) -> None:
    text = json.dumps(GOOD).encode() + b"\n"
    found = control.status(serve(text[n : n + 1] for n in range(len(text))), os.getuid())
    assert (found.state, found.clients, found.dirty, found.errors, found.lost) == ("running", 2, 5, (), ())
