"""Quiet hours: parts of each day in local time, across midnight and across the days on which clocks are set."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from aegis.services.config.telling import range_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import tzinfo


def quiet_until(ranges: Sequence[str], now: float, zone: tzinfo | None = None) -> float | None:
    """When the quiet hours end that it is now, in wall seconds; None when it is none. `zone` is this machine's own unless given.

    An hour that comes twice is quiet both times; where the clock passes over the end of a range, that ends there.
    """
    today = datetime.fromtimestamp(now, zone).replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0, fold=0)
    ends = []
    for text in ranges:
        found = range_of(text)
        if found is None:
            continue
        for day in (today - timedelta(days=1), today):
            begin = day + timedelta(minutes=found.begin)
            end = day + timedelta(days=found.end <= found.begin, minutes=found.end)
            if _instant(begin, zone, last=False) <= now < (until := _instant(end, zone, last=True)):
                ends.append(until)
    return max(ends, default=None)


def _instant(wall: datetime, zone: tzinfo | None, *, last: bool) -> float:
    """When clocks show `wall`: the first or the last time they do, and when they begin to show more where they pass over it."""
    early, late = (wall.replace(tzinfo=zone, fold=fold).timestamp() for fold in (0, 1))
    if early <= late:
        return late if last else early
    low, high = late, early  # clocks pass over it, somewhere in between
    while high - low > 1.0:
        middle = (low + high) / 2
        if datetime.fromtimestamp(middle, zone).replace(tzinfo=None) >= wall:
            high = middle
        else:
            low = middle
    return float(round(high))
