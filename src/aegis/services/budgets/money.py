"""Money and tokens as whole numbers: micro-dollars, so that a thousand calls add up to the last of them.

What is no amount (NaN, negative, infinite) is unknown, never zero; what is too large is cut, so that no sum overflows.
"""

from __future__ import annotations

import math
import re
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from functools import lru_cache
from typing import Final, NamedTuple

from aegis.models import Usage
from aegis.models.prices import Price, price_of, table

#: Micro-dollars in a dollar.
MICRO: Final = 1_000_000
#: No single amount is more than this: a billion dollars, or so many tokens.
MOST: Final = 10**15
#: Tokens that an answer may have whose request does not say how many.
UNSAID: Final = 8192
_DOLLARS: Final = re.compile(r"\$?([0-9]{1,9}(?:\.[0-9]{1,6})?)")


class Used(NamedTuple):
    """An amount of each kind: micro-dollars, tokens of prompt and answer together (cached ones once), tokens of the answer alone."""

    usd: int = 0
    tokens: int = 0
    output: int = 0


#: The kinds of an amount as people name them, in the order of `Used`.
KINDS: Final = ("usd", "tokens", "output_tokens")


def micro(usd: object) -> int | None:
    """Dollars as micro-dollars, rounded up; None for what is no amount of money."""
    if isinstance(usd, bool) or not isinstance(usd, int | float) or not 0 <= usd < math.inf:
        return None
    if usd > MOST // MICRO:
        return MOST
    return int((Decimal(repr(usd)) * MICRO).to_integral_value(ROUND_CEILING))


def dollars(text: str) -> int | None:
    """Micro-dollars of a text such as `1.50` or `$2`; None when it is none, or zero."""
    found = _DOLLARS.fullmatch(text.strip())
    try:
        return int(Decimal(found[1]) * MICRO) or None if found else None
    except InvalidOperation:
        return None


def count(tokens: object) -> int:
    """A number of tokens within bounds; 0 for what is none."""
    return min(MOST, max(0, tokens)) if isinstance(tokens, int) and not isinstance(tokens, bool) else 0


def shown(kind: str, amount: int) -> str:
    """An amount for people: `$1.50`, `$0.0003`, `12,000 tokens`."""
    if kind != "usd":
        return f"{amount:,} {'output tokens' if kind == 'output_tokens' else 'tokens'}"
    return money(amount)


def money(amount: int) -> str:
    """Micro-dollars for people; at least two digits of cents, more where less than a cent counts."""
    text = f"{amount / MICRO:,.6f}".rstrip("0")
    whole, _, part = text.partition(".")
    return f"${whole}.{part.ljust(2, '0') if amount % 10_000 and amount < 10 * MICRO else f'{amount / MICRO:.2f}'[-2:]}"


def dearest() -> Price:
    """A price that no known model exceeds: what an unknown one counts at."""
    prices = table().values()
    return Price(
        provider="",
        model="",
        input=max(each.input for each in prices),
        cached=max(each.cached for each in prices),
        output=max(each.output for each in prices),
        cache_write=max(each.cache_write or 0.0 for each in prices),
        cache_write_1h=max(each.cache_write_1h or 0.0 for each in prices),
        as_of="",
        source="the dearest of all",
    )


_dearest: Price | None = None


@lru_cache(maxsize=256)
def price_at_least(model: str) -> Price:
    """The price of a model, the dearest there is for one whose price is unknown."""
    global _dearest
    known = price_of(model)
    if known is not None:
        return known
    if _dearest is None:
        _dearest = dearest()
    return _dearest


@lru_cache(maxsize=256)
def known(model: str) -> bool:
    """Whether the price of a model is in the table."""
    return price_of(model) is not None


def worst(model: str, input_estimate: int, max_tokens: int | None, *, free: bool) -> Used:
    """What a call can use at most: its prompt, all of it written to the cache, and the longest answer that it allows."""
    prompt = count(input_estimate)
    answer = min(max(1, count(max_tokens)), 10_000_000) if max_tokens is not None else UNSAID
    if free:
        return Used(0, prompt + answer, answer)
    price = price_at_least(model)
    each = max(price.input, price.cache_write or 0.0, price.cache_write_1h or 0.0)
    return Used(min(MOST, math.ceil(prompt * each + answer * price.output)), prompt + answer, answer)


def least(model: str, input_estimate: int, *, free: bool) -> Used:
    """What a call uses at least: its prompt, all of it from the cache, and one token."""
    prompt = count(input_estimate)
    return Used(0 if free else int(prompt * price_at_least(model).cached), prompt + 1, 1)


def priced(model: str, usage: Usage) -> int:
    """What `usage` costs in micro-dollars where the cost is not known: at the model's price as far as it goes, else at the dearest."""
    price = price_at_least(model)
    written = max(price.input, price.cache_write or 0.0, price.cache_write_1h or 0.0)
    cached, fresh = count(usage.cached), count(usage.cache_written)
    plain = max(0, count(usage.input) - cached - fresh)
    return min(MOST, math.ceil(plain * price.input + cached * price.cached + fresh * written + count(usage.output) * price.output))
