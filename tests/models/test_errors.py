"""What errors look like in each dialect, and what a provider's errors tell about its limits."""

import json
import math
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.models.speaking import DIALECTS, retry_info

from aegis.models.errors import error_body, resets_at


def test_when_a_limit_is_over() -> None:
    assert resets_at((("retry-after", "30"),), 100.0) == 130.0
    assert resets_at((("retry-after", "soon"),), 100.0) is None
    headers = (
        ("anthropic-ratelimit-requests-remaining", "5"),
        ("anthropic-ratelimit-requests-reset", "2100-01-01T00:00:00Z"),
        ("anthropic-ratelimit-tokens-remaining", "0"),
        ("anthropic-ratelimit-tokens-reset", "2027-01-15T08:00:00Z"),
        ("anthropic-ratelimit-unified-reset", "nonsense"),
    )
    assert resets_at(headers, 1_800_000_000.0 - 60) == 1_800_000_000.0
    assert resets_at((), 0.0) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-requests": "9",
          "x-ratelimit-reset-requests": "23h"}, 360.0),
        ({"x-ratelimit-reset-requests": "20ms"}, 0.02),
        ({"x-ratelimit-reset-requests": "1d2h3m4.5s"}, 86_400 + 7200 + 180 + 4.5),
        ({"x-ratelimit-reset": "1800000030"}, 30.0),
        ({"x-ratelimit-reset": "1800000030000"}, 30.0),
        ({"x-ratelimit-reset": "45"}, 45.0),
        ({"x-ratelimit-reset": "tomorrow"}, None),
        ({"x-ratelimit-reset": "inf"}, None),
        ({"x-ratelimit-remaining": "3", "x-ratelimit-reset": "45"}, None),
        ({"x-ratelimit-reset-after": "-5"}, None),
        ({"anthropic-ratelimit-unified-status": "rejected", "anthropic-ratelimit-unified-reset": "1800003600",
          "anthropic-ratelimit-unified-5h-reset": "1800003600", "anthropic-ratelimit-unified-7d-reset": "1800400000"}, 3600.0),
        ({"anthropic-ratelimit-unified-5h-status": "rejected", "anthropic-ratelimit-unified-5h-reset": "1800003600",
          "anthropic-ratelimit-unified-7d-status": "allowed", "anthropic-ratelimit-unified-7d-reset": "1800400000"}, 3600.0),
        ({"retry-after": "7", "x-ratelimit-reset": "45"}, 7.0),
        ({"retry-after": formatdate(1_800_000_009, usegmt=True)}, 9.0),
    ],
)  # fmt: skip
def test_each_provider_says_it_in_its_own_way(headers: dict[str, str], seconds: float | None) -> None:
    now = 1_800_000_000.0
    moment = resets_at(tuple(headers.items()), now)
    assert moment == (None if seconds is None else pytest.approx(now + seconds, abs=1e-6))


def test_the_body_may_say_it() -> None:
    assert resets_at((), 100.0, retry_info("34.5s")) == 134.5
    assert resets_at((("retry-after", "3"),), 100.0, retry_info("34.5s")) == 103.0
    for odd in (b"", b"{", retry_info("soon"), retry_info("1e999s")):
        assert resets_at((), 100.0, odd) is None


@given(headers=st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset", "x-ratelimit-reset-x",
    "x-ratelimit-remaining", "anthropic-ratelimit-x-reset", "anthropic-ratelimit-unified-reset"]), st.text(max_size=12) | st.floats().map(str)),
    body=st.binary(max_size=40))  # fmt: skip
def test_odd_limits_harm_nothing(headers: dict[str, str], body: bytes) -> None:
    moment = resets_at(tuple(headers.items()), 0.0, body)
    assert moment is None or 0 <= moment < math.inf


def test_errors_in_each_dialect() -> None:
    for dialect in DIALECTS:
        told = json.loads(error_body(dialect, "no more", status=400, type="budget", resets_at=5))["error"]
        assert (told["message"], told["resets_at"]) == ("no more", 5)
        assert "budget" in json.dumps(told).lower()
    gemini = json.loads(error_body("gemini", "x", status=429))["error"]
    assert (gemini["code"], gemini["status"], gemini["details"][0]["reason"]) == (429, "RESOURCE_EXHAUSTED", "RATE_LIMIT_ERROR")
