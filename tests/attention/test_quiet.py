"""Quiet hours across midnight and across the days on which clocks are set."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from aegis.core.errors import AegisError
from aegis.services.attention.quiet import quiet_until
from aegis.services.config.document import parse
from aegis.services.config.reading import Values, read

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, fold: int = 0) -> float:
    """A time in Berlin, in wall seconds."""
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()


@pytest.mark.parametrize(
    ("ranges", "now", "end"),
    [
        (["22:00-07:00"], at("2026-11-10 21:59:59"), None),
        (["22:00-07:00"], at("2026-11-10 22:00"), at("2026-11-11 07:00")),
        (["22:00-07:00"], at("2026-11-11 00:00"), at("2026-11-11 07:00")),
        (["22:00-07:00"], at("2026-11-11 06:59:59"), at("2026-11-11 07:00")),
        (["22:00-07:00"], at("2026-11-11 07:00"), None),
        (["12:00-13:00"], at("2026-11-10 12:30"), at("2026-11-10 13:00")),
        (["12:00-13:00"], at("2026-11-10 13:00"), None),
        (["20:00-24:00"], at("2026-11-10 23:59"), at("2026-11-11 00:00")),
        (["00:00-24:00"], at("2026-11-10 15:00"), None),  # refused where it is written
        (["12:00-13:00", "12:30-14:00"], at("2026-11-10 12:45"), at("2026-11-10 14:00")),
        ([], at("2026-11-10 12:45"), None),
        # The night of 29 March 2026 has no hour from two to three.
        (["22:00-07:00"], at("2026-03-29 01:00"), at("2026-03-29 07:00")),
        (["22:00-02:30"], at("2026-03-29 01:59"), at("2026-03-29 03:00")),
        (["22:00-02:30"], at("2026-03-29 03:00"), None),
        (["02:30-04:00"], at("2026-03-29 01:59"), None),
        (["02:30-04:00"], at("2026-03-29 03:00"), at("2026-03-29 04:00")),
        # The night of 25 October 2026 has it twice.
        (["22:00-02:30"], at("2026-10-25 02:29"), at("2026-10-25 02:30", 1)),
        (["22:00-02:30"], at("2026-10-25 02:45"), at("2026-10-25 02:30", 1)),
        (["22:00-02:30"], at("2026-10-25 02:30", 1), None),
        (["02:30-05:00"], at("2026-10-25 02:30"), at("2026-10-25 05:00")),
        (["02:30-05:00"], at("2026-10-25 02:10", 1), at("2026-10-25 05:00")),
    ],
)
def test_when_it_is_quiet(ranges: list[str], now: float, end: float | None) -> None:
    assert quiet_until(ranges, now, BERLIN) == end


def test_with_the_time_zone_of_the_machine() -> None:
    assert quiet_until(["00:00-12:00", "12:00-24:00"], at("2026-11-10 12:45")) is not None


@pytest.mark.parametrize("text", ["22-7", "22:00", "25:00-07:00", "22:61-07:00", "22:00-22:00", "00:00-24:00", "", "[22:00-07:00, x]", "7"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(AegisError, match="22:00-07:00"):
        read(parse(f"notify: {{quiet: {text or '{}'}}}".encode(), "f"), Values({}, {}))


@pytest.mark.parametrize("text", ["22:00-07:00", "[22:00-07:00, 12:00-13:00]", "[]"])
def test_ranges_are_read(text: str) -> None:
    values = Values({}, {})
    read(parse(f"notify: {{quiet: {text}}}".encode(), "f"), values)
    assert isinstance(values.leaves["notify.quiet"].value, list)
