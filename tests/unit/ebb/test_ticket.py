"""Tickets: what is signed is believed, by the right node for the right job only."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebb.errors import EbbError, EnvironmentFault, NotAllowed, UserError
from ebb.ticket import SiteKey, Ticket, TicketMount, load_site_key, sign, verify

KEY = SiteKey(bytes(range(32)))
MOUNT = TicketMount(
    sid="42",
    name="toto",
    type="GBF",
    path="/home/alice/mnt",
    address="10.2.19.211",
    port=20490,
    export="/ganesha_7",
    data="/run/ebb/dn1/ganesha/7/data",
)
TICKET = Ticket(job=42, uid=1000, gid=1000, exp=1790000000, mounts=(MOUNT,))
NOW = 1789999999.0


def signed(payload: bytes, key: SiteKey = KEY, version: str = "v1") -> str:
    """As docs/interfaces.md says, without the code under test."""
    text = f"{version}.{base64.urlsafe_b64encode(payload).decode().rstrip('=')}"
    derived = hmac.new(key.secret, b"ebb ticket v1", hashlib.sha256).digest()
    mac = hmac.new(derived, text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def test_what_is_signed_comes_back() -> None:
    assert verify(sign(TICKET, KEY), KEY, job=42, uid=1000, now=NOW) == TICKET


def test_the_wire_is_the_documented_one() -> None:
    text = sign(TICKET, KEY)
    payload = base64.urlsafe_b64decode(text.split(".")[1] + "==")
    assert json.loads(payload) == {
        "job": 42,
        "uid": 1000,
        "gid": 1000,
        "exp": 1790000000,
        "mounts": [
            {
                "sid": "42",
                "name": "toto",
                "type": "GBF",
                "path": "/home/alice/mnt",
                "address": "10.2.19.211",
                "port": 20490,
                "export": "/ganesha_7",
                "data": "/run/ebb/dn1/ganesha/7/data",
            }
        ],
    }
    assert text == signed(payload)
    assert "=" not in text and "\n" not in text


@pytest.mark.parametrize(("job", "uid"), [(43, 1000), (42, 1001), (0, 0)])
def test_another_jobs_or_users_ticket(job: int, uid: int) -> None:
    with pytest.raises(NotAllowed, match="job 42 of uid 1000"):
        verify(sign(TICKET, KEY), KEY, job=job, uid=uid, now=NOW)


def test_an_expired_ticket() -> None:
    with pytest.raises(NotAllowed, match="expired"):
        verify(sign(TICKET, KEY), KEY, job=42, uid=1000, now=1790000001.0)


def test_another_sites_key() -> None:
    with pytest.raises(NotAllowed, match="not signed"):
        verify(sign(TICKET, SiteKey(b"x" * 32)), KEY, job=42, uid=1000, now=NOW)


@pytest.mark.parametrize("version", ["v2", "v0", "", "V1"])
def test_an_unknown_version_even_if_well_signed(version: str) -> None:
    payload = base64.urlsafe_b64decode(sign(TICKET, KEY).split(".")[1] + "==")
    with pytest.raises(UserError, match="release"):
        verify(signed(payload, version=version), KEY, job=42, uid=1000, now=NOW)


@pytest.mark.parametrize("payload", [b"{}", b"[]", b'{"job":42,"uid":1000,"gid":1000,"exp":1790000000,"mounts":[{}]}'])
def test_signed_nonsense_of_another_release_is_an_error_for_people(payload: bytes) -> None:
    with pytest.raises(EbbError):
        verify(signed(payload), KEY, job=42, uid=1000, now=NOW)


@given(st.text(max_size=200))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        verify(text, KEY, job=42, uid=1000, now=NOW)


@given(st.data())
def test_any_changed_character_is_refused(data: st.DataObject) -> None:
    text = sign(TICKET, KEY)
    place = data.draw(st.integers(0, len(text) - 2))  # the last one's lowest bits mean nothing in base64
    other = data.draw(st.sampled_from("ABCabc019-_.=").filter(lambda c: c != text[place]))
    with pytest.raises(UserError):
        verify(text[:place] + other + text[place + 1 :], KEY, job=42, uid=1000, now=NOW)


def test_the_key_is_not_shown_and_each_use_has_its_own() -> None:
    assert KEY.secret.hex() not in repr(KEY) and repr(KEY.secret) not in repr(KEY)
    assert KEY.derive(b"ebb ticket v1") != KEY.derive(b"ebb dataset v1") != KEY.secret


def test_a_ticket_is_frozen() -> None:
    assert replace(TICKET, uid=0) != TICKET
    with pytest.raises(AttributeError):
        TICKET.uid = 0  # type: ignore[misc]


def test_reading_the_site_key(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    path.write_bytes(KEY.secret)
    path.chmod(0o600)
    assert load_site_key(path) == KEY


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o666, 0o610])
def test_a_site_key_open_to_others(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "site.key"
    path.write_bytes(KEY.secret)
    path.chmod(mode)
    with pytest.raises(EnvironmentFault, match=f"mode {mode:04o}"):
        load_site_key(path)


def test_a_site_key_that_is_short_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    with pytest.raises(EnvironmentFault, match="cannot be read"):
        load_site_key(path)
    path.write_bytes(b"short")
    path.chmod(0o600)
    with pytest.raises(EnvironmentFault, match="5 bytes"):
        load_site_key(path)
