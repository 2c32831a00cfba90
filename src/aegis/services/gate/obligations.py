"""What a rule that allows asks for besides: a rate, a bound on what runs at once, a bound on what comes back."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Final

from aegis.services.gate.model import Held, Obligations

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aegis.services.config.document import Place

_RATE: Final = re.compile(r"([0-9]{1,5})/([0-9]{1,6}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE: Final = re.compile(r"([0-9]{1,12})(?:([KMG])i?)?B?")
_SIZES: Final = {None: 1, "K": 1024, "M": 1024**2, "G": 1024**3}
#: How many (rule, instance) pairs are counted; the least used are forgotten.
_KEPT: Final = 10_000


def rate(text: str, place: Place) -> tuple[int, float]:
    """`30/60s` as calls and seconds. Raises USAGE."""
    found = _RATE.fullmatch(text.strip())
    if found is None or not float(found[2]):
        raise place.error(f"`{text[:40]}` is not a rate", "write CALLS/TIME, such as `30/60s` or `5/1h`")
    return int(found[1]), float(found[2]) * _UNITS[found[3]]


def count(text: str, place: Place) -> int:
    """A number of calls at a time. Raises USAGE."""
    if not text.strip().isdecimal() or len(text) > 6 or not text.isascii():
        raise place.error(f"`{text[:40]}` is not a number of calls", "write a whole number, such as `2`")
    return int(text)


def size(text: str, place: Place) -> int:
    """`1MiB` in bytes. Raises USAGE."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise place.error(f"`{text[:40]}` is not a size", "write a number with K, M or G, such as `64K` or `1MiB`")
    return int(found[1]) * _SIZES[found[2]]


def together(several: Iterable[Obligations]) -> Obligations:
    """All of them at once: of each the least."""
    all_ = [each for each in several if each != Obligations()]
    if not all_:
        return Obligations()
    return Obligations(
        rate=min((each.rate for each in all_ if each.rate is not None), key=lambda of: of[0] / of[1], default=None),
        concurrent=min((each.concurrent for each in all_ if each.concurrent is not None), default=None),
        max_result=min((each.max_result for each in all_ if each.max_result is not None), default=None),
        held=tuple(dict.fromkeys(held for each in all_ for held in each.held)),
    )


class Meters:
    """Counts calls by rule and instance. In memory: a daemon that starts again begins to count anew."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str], deque[float]] = {}
        self._running: dict[tuple[str, str], int] = {}

    def take(self, held: tuple[Held, ...], now: float) -> tuple[str, float] | None:
        """Count one call, or say why not and after how many seconds there is room; then nothing is counted."""
        for each in held:
            if each.rate is None:
                continue
            calls, seconds = each.rate
            past = self._calls.get((each.rule, each.instance), deque())
            while past and past[0] <= now - seconds:
                past.popleft()
            if len(past) >= calls:
                wait = past[0] + seconds - now if past else seconds
                return f"`{each.rule}` allows {calls} in {seconds:g} s, and so many were made", wait
        for each in held:
            if each.rate is not None:
                key = (each.rule, each.instance)
                past = self._calls.pop(key, deque())
                past.append(now)
                self._calls[key] = past  # the newest last
                while len(self._calls) > _KEPT:
                    del self._calls[next(iter(self._calls))]
        return None

    def enter(self, held: tuple[Held, ...]) -> str | None:
        """Count one that runs, or say why not; then nothing is counted."""
        bounded = [each for each in held if each.concurrent is not None]
        for each in bounded:
            if self._running.get((each.rule, each.instance), 0) >= (each.concurrent or 0):
                return f"`{each.rule}` allows {each.concurrent} at a time, and so many run"
        for each in bounded:
            key = (each.rule, each.instance)
            self._running[key] = self._running.get(key, 0) + 1
        return None

    def leave(self, held: tuple[Held, ...]) -> None:
        """One that `enter` counted has ended."""
        for each in held:
            if each.concurrent is None:
                continue
            key = (each.rule, each.instance)
            left = self._running.get(key, 0) - 1
            if left > 0:
                self._running[key] = left
            else:
                self._running.pop(key, None)
