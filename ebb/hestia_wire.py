"""What a client of Hestia's HTTP API says and hears: for dnd and `ebb dataset`. Reference: its user guide."""

from __future__ import annotations

import json

from ebb.objectpair import checked_id


def action(name: str, object_id: str) -> dict[str, str]:
    """The headers of an action (`put_data`, `get_data`, ...) on an object. Raises UserError for what is no id."""
    return {
        "hestia.hsm_action.action": name,
        "hestia.hsm_action.subject": "object",
        "hestia.hsm_action.subject_key": checked_id(object_id),
    }


def given_token(users: bytes) -> str | None:
    """The token that the answer to `GET users` gives anybody: the first user's first one; None if it gives none."""
    try:
        return str(json.loads(users)[0]["tokens"][0]["value"])
    except (ValueError, LookupError, TypeError):
        return None
