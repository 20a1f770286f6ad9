"""A user's DASI configuration: which roots are taken, what is refused and how that is said."""

from __future__ import annotations

import re

import pytest

from dnd.dasi.config import LARGEST, roots_of
from dnd.dasi.roots import GRAIN, dataset_name, share_of
from ebb.errors import UserError

PREFIXES = ("/home", "/scratch")
MIB = 1 << 20


def test_any_number_of_spaces_and_roots() -> None:
    text = b"""
    schema: ./schema
    catalogue: toc
    store: file
    spaces:
    - handler: Default
      roots:
      - {path: /home/alice/root1, writable: true, visit: true}
      - {path: /home/alice/./root2//, wipe: true, archive: false}
    - regex: "b:.*"
      roots:
      - path: /scratch/alice/root3
      - /scratch/alice/root4
    """
    assert roots_of(text, PREFIXES) == (
        "/home/alice/root1",
        "/home/alice/root2",
        "/scratch/alice/root3",
        "/scratch/alice/root4",
    )


def spaces(*roots: str) -> bytes:
    return ("spaces: [{roots: [" + ", ".join(f"{{path: {root}}}" for root in roots) + "]}]").encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds None; a mapping with `spaces` is needed"),
        (b"just text", "holds 'just text'"),
        (b"schema: x", "has no `spaces` where it must list them: found None"),
        (b"spaces: 7", "has no `spaces`"),
        (b"spaces: []", "has no `spaces`"),
        (b"spaces: [7]", "has no `roots` where space 1 must list them"),
        (b"spaces: [{roots: [{path: /home/a}]}, {handler: x}]", "has no `roots` where space 2"),
        (b"spaces: [{roots: [{path: 7}]}]", "has a root with the path 7"),
        (b"spaces: [{roots: [{writable: true}]}]", "has a root with the path None"),
        (b"spaces: [\n{roots: [", "is no YAML: .* in line 2"),
        (b"spaces: \xff\xfe", "is no UTF-8 text at byte 8"),
        (b"spaces: !!python/object/apply:os.system ['id']", "is no YAML"),
        (b"[" * 5000, "is no"),
        (spaces("./root1"), "has the root `./root1`: .* must be absolute"),
        (spaces("/home/a/r", "/home/a/r/"), "names the root `/home/a/r` twice"),
        (spaces("/home/a/r", "/home/a/r/s"), "`/home/a/r` and `/home/a/r/s`, one inside the other"),
        (spaces("/home/a/r/s", "/home/a/r"), "one inside the other"),
        (spaces("/home/../etc"), "no `..`"),
        (spaces("/home/$USER/r"), "variables"),
        (spaces('"/home/a\\nb"'), "control characters"),
        (spaces("/etc/dasi"), "system directory /etc"),
        (spaces("/opt/dasi"), "must lie below one of /home, /scratch"),
        (spaces("/"), "must lie below"),
        (spaces(*(f"/home/a/r{n}" for n in range(65))), "more than 64 roots"),
        (b"a: &a [1]\nspaces: [{roots: [*a, *a]}]", r"has an alias \(`\*\.\.\.`\) in line 2: write out"),
        (
            b"a: &a {b: c}\n"
            + b"\n".join(b"%c: &%c {<<: [%s]}" % (n, n, b"*%c," % (n - 1) * 9) for n in range(98, 120)),
            "has an alias",
        ),
    ],
)
def test_what_is_refused(content: bytes, message: str) -> None:
    assert len(content) < LARGEST
    with pytest.raises(UserError, match=message):
        roots_of(content, PREFIXES)


def test_roots_that_share_a_beginning_of_a_name_lie_apart() -> None:
    assert roots_of(spaces("/home/a/r", "/home/a/r2"), PREFIXES) == ("/home/a/r", "/home/a/r2")


def test_a_single_root_has_all_and_several_have_the_same() -> None:
    assert share_of(799014913, 1) == 799014913
    assert share_of(1000 * MIB, 3) == 332 * MIB
    assert 3 * share_of(1000 * MIB, 3) <= 1000 * MIB and share_of(1000 * MIB, 3) % GRAIN == 0
    with pytest.raises(UserError, match=re.escape(f"give StorageSize={900 * MIB} or more")):
        share_of(899 * MIB, 3)


def test_dataset_names_are_stable_plain_and_of_one_root_only() -> None:
    assert dataset_name("/home/alice/root1") == "root1-2eee764f3e1c.dasi"
    names = {
        dataset_name(root) for root in ("/home/a/r", "/home/b/r", "/home/a-r", "/home/a/R", "/home/a/ü b", "/h/.x")
    }
    assert len(names) == 6
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.dasi", name) for name in names)
    assert len(dataset_name("/home/" + "x" * 250)) < 100
