"""What a call cost, from a dated table inside the package.

The table holds list prices of a few well-known models, each with the day it was checked and where. Guaranteed: a cost that
is not known is None, never zero. Not done here: discounts, batch or priority tiers, tools that a provider bills apart.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Final

import msgspec

from aegis.models.names import BUILT_IN, SCRIPTED

if TYPE_CHECKING:
    from aegis.models import Usage

#: No count of tokens is believed beyond this.
_MOST: Final = 10**15
#: What providers put behind a model's name to pin one snapshot of it.
_SNAPSHOT: Final = re.compile(r"-(?:latest|\d{8}|\d{4}-\d{2}-\d{2})$")


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """US dollars per million tokens. None where the provider does not sell that."""

    provider: str
    model: str
    input: float
    cached: float
    output: float
    as_of: str  # the day of what the price was copied from, YYYY-MM-DD
    source: str
    cache_write: float | None = None
    cache_write_1h: float | None = None
    max_input: int | None = None  # above this another price applies


class _File(msgspec.Struct):
    about: str
    prices: list[Price]


@cache
def table() -> dict[tuple[str, str], Price]:
    """The prices by provider and model."""
    data = resources.files("aegis.models").joinpath("prices.json").read_bytes()
    return {(price.provider, price.model): price for price in msgspec.json.decode(data, type=_File).prices}


def price_of(model: str) -> Price | None:
    """The price of `provider/model`, with or without a snapshot date; None when unknown."""
    provider, _, name = model.partition("/")
    return table().get((provider, name)) or table().get((provider, _SNAPSHOT.sub("", name)))


def cost(model: str, usage: Usage, *, free: bool = False) -> float | None:
    """What `usage` of `provider/model` cost in US dollars; None when unknown; exactly 0.0 when `free` or answered by this machine."""
    provider = model.partition("/")[0]
    if free or provider == SCRIPTED or (provider in BUILT_IN and BUILT_IN[provider].free):
        return 0.0
    price = price_of(model)
    if price is None or (price.max_input is not None and usage.input > price.max_input):
        return None
    short = usage.cache_written - usage.cache_written_1h
    parts = (
        (usage.input - usage.cached - usage.cache_written, price.input),
        (usage.cached, price.cached),
        (short, price.cache_write),
        (usage.cache_written_1h, price.cache_write_1h),
        (usage.output, price.output),
    )
    total = 0.0
    for tokens, each in parts:
        if tokens <= 0:
            continue
        if each is None:
            return None
        total += min(tokens, _MOST) * each
    return total / 1_000_000
