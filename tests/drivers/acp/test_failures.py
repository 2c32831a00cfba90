"""What agents' errors mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aegis.core.errors import ErrorKind
from aegis.drivers.acp.failures import described

NOW = 1_800_000_000.0
QUOTA = {
    "error": {
        "code": 429,
        "message": "You exceeded your current quota. Please retry in 37.5s.",
        "status": "RESOURCE_EXHAUSTED",
        "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "37s"}],
    }
}


@pytest.mark.parametrize(
    ("error", "kind", "status", "words"),
    [
        ({"code": 400, "message": json.dumps({"error": {"code": 400, "message": "bad thing"}})}, "failed", 400, "bad thing"),
        ({"code": -32603, "message": "Internal error", "data": {"details": "no way"}}, "failed", None, "no way"),
        ({"code": -32603, "message": "Internal error: it broke", "data": {"statusCode": 503}}, "failed", 503, "it broke"),
        ({"code": -32603, "message": "failed with status code 502"}, "failed", 502, "502"),
        ({"code": -32000, "message": "Authentication required"}, "denied", None, "not logged in"),
        ({"code": 401, "message": "bad key"}, "denied", 401, "bad key"),
        ({"code": 429, "message": "slow down"}, "limit", 429, "slow down"),
        ({"code": -32603, "message": "Usage limit reached"}, "limit", None, "Usage limit"),
        ({"code": -32603, "message": "x", "data": {"errorName": "RESOURCE_EXHAUSTED"}}, "limit", None, "x"),
        ({"code": 500, "message": "the rate limit service is down"}, "failed", 500, "down"),
        ("just text", "failed", None, "just text"),
        ({}, "failed", None, "no reason"),
    ],
)
def test_kinds(error: Any, kind: str, status: int | None, words: str) -> None:
    found = described(error, NOW)
    assert found.kind == kind
    assert found.data.get("status") == status
    assert words in found.message


@pytest.mark.parametrize(
    ("error", "after"),
    [
        ({"code": 429, "message": json.dumps(QUOTA)}, 37.0),
        ({"code": 429, "message": "Please retry in 37.5s."}, 37.5),
        ({"code": 429, "message": "limit reached, resets in 2h 5m"}, 7500.0),
        ({"code": 429, "message": "Your quota will reset after 3h20m10s."}, 12010.0),
        ({"code": 429, "message": "try again in 5 minutes"}, 300.0),
        ({"code": 429, "message": "x", "data": {"retryAfter": 12}}, 12.0),
        ({"code": 429, "message": "x", "data": {"headers": {"retry-after": "60"}}}, 60.0),
        ({"code": 429, "message": "x", "data": {"retryDelayMs": 1500}}, 1.5),
        ({"code": 429, "message": "x", "data": {"resetsAt": NOW + 90}}, 90.0),
        ({"code": 429, "message": "x", "data": {"resets_at": (NOW + 90) * 1000}}, 90.0),
        ({"code": 429, "message": "x", "data": {"resetTime": "2027-01-15T08:01:00Z"}}, 60.0),
        ({"code": 429, "message": "usage limit reached, resets at 2027-01-15T09:00:00+00:00"}, 3600.0),
        ({"code": 429, "message": f"Usage limit reached. Resets at {int(NOW + 50)}"}, 50.0),
        ({"code": 429, "message": "x", "data": {"resetsAt": 12}}, None),
        ({"code": 429, "message": "wait"}, None),
    ],
)
def test_when_a_limit_ends(error: Any, after: float | None) -> None:
    found = described(error, NOW)
    assert found.kind is ErrorKind.LIMIT
    assert found.data.get("resets_at") == (None if after is None else pytest.approx(NOW + after))
