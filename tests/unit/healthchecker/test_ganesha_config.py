"""The check reads what dnd writes."""

from pathlib import Path

from dnd.ganesha.config import GaneshaConfig
from healthchecker.checks.ganesha import Served, parse


def test_the_configuration_of_dnd_is_read() -> None:
    for address in ("10.2.19.211", "fd00::11"):
        config = GaneshaConfig(7, address, 20496, Path("/run/ebb/dn1/ganesha/7"))
        expected = Served(address, 20496, "/ganesha_7", "/run/ebb/dn1/ganesha/7/data")
        assert parse(config.text(["10.2.19.12"])) == expected
    assert parse("something else") is None
