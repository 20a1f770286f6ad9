"""Which roots a DASI configuration names. The file is the user's: nothing in it is believed.

    schema: ./schema
    spaces:
    - handler: Default
      roots:
      - {path: /scratch/alice/root1, writable: true, visit: true}

Of all that only the roots' paths matter here; the rest is DASI's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from ebb.as_user import AsUser, PathMissing
from ebb.errors import EnvironmentFault, UserError
from ebb.fields import shown

LARGEST = 256 << 10
"""Bytes of a configuration. Real ones have some hundred."""
MOST_ROOTS = 64
_SYSTEM = (
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/root", "/run", "/sbin", "/sys",
    "/usr", "/var",
)  # fmt: skip


class _Loader(yaml.SafeLoader):
    """Everything where it is written: an alias stands for what stands elsewhere, so some hundred bytes of them would be
    more than any memory holds.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """One node. Raises UserError for an alias."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise UserError(f"has an alias (`*...`) in line {mark.line + 1}: write out what it stands for")
        return super().compose_node(parent, index)


def read(user: AsUser, path: str, prefixes: Sequence[str]) -> tuple[str, ...]:
    """The root paths in a user's configuration, in its order. prefixes: of which each must lie below one.

    Raises UserError with the file, what was found and what is accepted.
    """
    try:
        descriptor = user.open_source(path)
    except PathMissing as error:
        raise UserError(f"DasiConfig `{path}` does not exist, or this datanode does not see it") from error
    except UserError as error:
        raise UserError(f"DasiConfig {error.text}") from error
    try:
        content = os.pread(descriptor, LARGEST + 1, 0)
        size = os.fstat(descriptor).st_size
    except OSError as error:
        raise EnvironmentFault(f"DasiConfig `{path}` cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    try:
        if len(content) > LARGEST:
            raise UserError(f"has {size} bytes; a DASI configuration has at most {LARGEST}")
        return roots_of(content, prefixes)
    except UserError as error:
        raise UserError(f"DasiConfig `{path}` {error.text}") from error


def roots_of(content: bytes, prefixes: Sequence[str]) -> tuple[str, ...]:
    """The root paths that a configuration names. Raises UserError: the caller puts its path in front."""
    roots: list[str] = []
    for raw in _raw_roots(_parsed(content)):
        root = _checked(raw, prefixes)
        for other in roots:
            if root == other:
                raise UserError(f"names the root `{root}` twice; each root has a path of its own")
            if _below(root, other) or _below(other, root):
                raise UserError(f"has the roots `{other}` and `{root}`, one inside the other; roots must lie apart")
        roots.append(root)
        if len(roots) > MOST_ROOTS:
            raise UserError(f"has more than {MOST_ROOTS} roots")
    if not roots:
        raise UserError("names no root; accepted: spaces: [{roots: [{path: /a/root}, ...]}, ...]")
    return tuple(roots)


def _parsed(content: bytes) -> Any:
    try:
        return yaml.load(content.decode(), _Loader)  # noqa: S506 (a SafeLoader)
    except UnicodeDecodeError as error:
        raise UserError(f"is no UTF-8 text at byte {error.start}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}" if mark else ""
        raise UserError(f"is no YAML: {error.problem or 'it cannot be read'}{where}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"is no YAML: {error}") from None
    except RecursionError:
        raise UserError("is no DASI configuration: it is nested too deeply") from None


def _raw_roots(document: Any) -> Iterator[object]:
    if not isinstance(document, dict):
        raise UserError(f"holds {shown(document)}; a mapping with `spaces` is needed")
    for number, space in enumerate(_list(document, "spaces", "it"), 1):
        for root in _list(space, "roots", f"space {number}"):
            # DASI takes a bare path, too.
            yield root.get("path") if isinstance(root, dict) else root


def _list(parent: object, key: str, whose: str) -> list[Any]:
    found = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(found, list) or not found:
        raise UserError(f"has no `{key}` where {whose} must list them: found {shown(found)}")
    return found


def _checked(raw: object, prefixes: Sequence[str]) -> str:
    if not isinstance(raw, str) or not raw:
        raise UserError(f"has a root with the path {shown(raw)}; a text is needed")
    if not raw.startswith("/"):
        raise UserError(f"has the root `{raw[:200]}`: a root is a mountpoint in the job, so its path must be absolute")
    parts = [part for part in raw.split("/") if part not in ("", ".")]
    if ".." in parts or "$" in raw or any(not character.isprintable() for character in raw) or len(raw) > 4000:
        raise UserError(f"has the root {shown(raw)}: no `..`, variables or control characters, 4000 characters at most")
    root = "/" + "/".join(parts)
    for directory in _SYSTEM:
        if root == directory or _below(root, directory):
            raise UserError(f"has the root `{root}`: nothing can be mounted in the system directory {directory}")
    if not any(_below(root, prefix) or root == prefix for prefix in prefixes):
        raise UserError(f"has the root `{root}`: it must lie below one of {', '.join(prefixes)}")
    return root


def _below(path: str, directory: str) -> bool:
    return path.startswith(directory.rstrip("/") + "/")
