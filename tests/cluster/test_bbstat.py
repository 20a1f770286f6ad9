"""The reader of bbstat, against the shape that programs around Slurm rely on."""

import pytest

from cluster import bbstat

TEXT = """\
FA: BB Type=GBF bbid=471967 Name=toto State=staged-in CreateTime=2024-02-06T15:42:26 Memory=0 StorageSize=799014912 \
UserId=22836(boudier1) Reason="Global Bunch of Flash ready"
FA: BB Type=GBF bbid=451731 Name=y State=staged-out CreateTime=2024-02-05T15:42:26 UserId=21898(couvee1) \
Reason="Resources released"
FA: Total storage : 10TB
FA: Used storage : 5693557494KiB
FA: Free storage : 4072067506KiB
FA: Total memory : 400GB
FA: Used memory : 0
FA: Free memory : 400GB
"""


def test_buffers_and_totals() -> None:
    stat = bbstat.parse(TEXT)
    toto = stat.buffer("toto")
    assert toto is not None
    assert (toto.bbid, toto.state, toto.storage, toto.user) == (471967, "staged-in", 799014912, "22836(boudier1)")
    assert toto.reason == "Global Bunch of Flash ready"
    ended = stat.buffer("y")
    assert ended is not None and ended.storage is None
    assert stat.state("nobody's") is None
    assert stat.totals["total storage"] == 10**13 == stat.totals["used storage"] + stat.totals["free storage"]
    assert stat.totals["used memory"] == 0


def test_the_living_of_two_with_one_name() -> None:
    text = TEXT.replace("Name=y", "Name=toto")
    assert bbstat.parse(text).state("toto") == "staged-in"


@pytest.mark.parametrize("line", ["slurm_bb_get_status: error", "FA: Used storage : lots", "FA: BB Type=GBF Name=x"])
def test_a_broken_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"bbstat|in:"):
        bbstat.parse(line + "\n")
