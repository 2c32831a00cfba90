"""A provider that gives no more: told from one that is merely asked too fast, and answered so that nobody tries again."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aegis.models import ModelRequest, ModelResponse
from aegis.services.broker.limits import lasting

NOW = 1_800_000_000.0
BODY = b'{"model":"claude-x","messages":[]}'
GEMINI_DAY = {
    "error": {
        "code": 429,
        "status": "RESOURCE_EXHAUSTED",
        "message": "You exceeded your current quota",
        "details": [
            {"@type": "x/google.rpc.QuotaFailure", "violations": [{"quotaId": "GenerateRequestsPerDayPerProject"}]},
            {"@type": "x/google.rpc.RetryInfo", "retryDelay": "36s"},
        ],
    }
}


def told(message: str = "", **more: Any) -> bytes:
    return json.dumps({"type": "error", "error": {"message": message, **more}}).encode()


def retry(delay: str) -> bytes:
    return told("slow down", status="RESOURCE_EXHAUSTED", details=[{"@type": "x/google.rpc.RetryInfo", "retryDelay": delay}])


@pytest.mark.parametrize(
    ("status", "headers", "body", "expected"),
    [
        (429, {"retry-after": "3600"}, told("limited"), 3600.0),
        (429, {"retry-after": "30"}, told("limited"), None),
        (429, {}, told("rate limited", type="rate_limit_error"), None),
        (429, {"anthropic-ratelimit-unified-reset": str(int(NOW + 7200))}, told("limited"), 7200.0),
        (429, {}, told("Claude AI usage limit reached|1800009000"), 9000.0),
        (400, {}, told("Claude AI usage limit reached|1800009000000"), 9000.0),
        (403, {}, told("Claude AI usage limit reached|1800000030"), None),
        (429, {}, told("Claude usage limit reached. Try later."), "unknown"),
        (400, {}, told("the words usage limit reached without a moment"), None),
        (429, {}, told("You exceeded your current quota", type="insufficient_quota", code="insufficient_quota"), "unknown"),
        (429, {"retry-after": "1"}, told("spent", code="insufficient_quota"), "unknown"),
        (429, {}, told("limit", type="usage_limit_reached", resets_at=NOW + 500), 500.0),
        (429, {}, retry("4000.5s"), 4000.5),
        (429, {}, retry("20s"), None),
        (429, {}, json.dumps(GEMINI_DAY).encode(), "unknown"),
        (429, {}, json.dumps([GEMINI_DAY]).encode(), "unknown"),
        (429, {"retry-after": "99999999999"}, told("limited"), "unknown"),
        (429, {}, b"<html>", None),
        (429, {}, b'{"error":"insufficient_quota"}', "unknown"),
        (500, {"retry-after": "3600"}, told("usage limit"), None),
        (400, {}, told("bad request"), None),
    ],
)
def test_which_limits_last(status: int, headers: dict[str, str], body: bytes, expected: float | str | None) -> None:
    found = lasting(status, tuple(headers.items()), body, NOW)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert found.resets_at == (None if expected == "unknown" else NOW + float(expected))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"[1]", b'{"error":{"details":[1,{"violations":[2,{}]},{"violations":3}]}}', b"[" * 99999]
)
def test_odd_bodies_are_no_limit(body: bytes) -> None:
    assert lasting(429, (), body, NOW) is None


def refusing(answers: Any, body: bytes, *headers: tuple[str, str], status: int = 429) -> Callable[[ModelRequest], Awaitable[ModelResponse]]:
    async def answer(request: ModelRequest) -> ModelResponse:
        return answers.whole(body, status, *headers)  # type: ignore[no-any-return]

    return answer


PATHS = {
    "anthropic": "/v1/messages",
    "openai": "/v1/chat/completions",
    "responses": "/v1/responses",
    "gemini": "/v1/models/claude-x:generateContent",
}


@pytest.mark.parametrize("dialect", PATHS)
async def test_a_limit_that_lasts_is_told_and_answered_as_final(served: Any, fake: Any, answers: Any, dialect: str) -> None:
    fake.dialects = frozenset({dialect})
    fake.answer = refusing(answers, told("see you tomorrow"), ("retry-after", "7200"))
    reply = await served.post(PATHS[dialect], BODY if dialect != "gemini" else b"{}")
    assert reply.status == 402
    assert (reply.headers["x-should-retry"], reply.headers["x-aegis-limit"]) == ("false", "provider")
    assert reply.headers["x-aegis-resets-at"] == str(int(NOW + 7200))
    assert "retry-after" not in reply.headers
    error = json.loads(reply.body)["error"]
    assert error["message"] == "the usage limit of model provider `anthropic` is reached; it ends at 2027-01-15 10:00 UTC"
    assert served.limits[0][1].message.endswith("2027-01-15 10:00 UTC: see you tomorrow")  # for people; some programs try again for it
    (call,) = served.recorded
    ((limited, hit),) = served.limits
    assert limited is call
    assert (hit.provider, hit.resets_at, hit) == ("anthropic", NOW + 7200, call.limit)
    assert (call.outcome, call.status) == ("failed", 402)


async def test_a_limit_that_passes_is_the_programs_to_wait_for(served: Any, fake: Any, answers: Any) -> None:
    fake.answer = refusing(answers, told("slowly", type="rate_limit_error"), ("retry-after", "20"))
    reply = await served.post("/v1/messages", BODY)
    assert (reply.status, reply.headers["retry-after"], reply.body) == (429, "20", told("slowly", type="rate_limit_error"))
    assert not served.limits
    assert served.recorded[0].limit is None


async def test_a_provider_that_is_held_is_not_asked(served: Any, fake: Any) -> None:
    served.holds["anthropic"] = NOW + 100
    reply = await served.post("/v1/messages", BODY)
    assert (reply.status, reply.headers["x-aegis-limit"], reply.headers["x-should-retry"]) == (402, "provider", "false")
    assert not fake.seen
    assert not served.admitted
    assert not served.limits
    (call,) = served.recorded
    assert (call.outcome, call.limit.resets_at) == ("refused", NOW + 100)
    del served.holds["anthropic"]
    assert (await served.post("/v1/messages", BODY)).status == 200


async def test_a_limit_that_cannot_be_kept_is_still_answered(
    served: Any, fake: Any, answers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(call: Any, hit: Any) -> None:
        raise OSError("disk full")

    served.broker._limited = fails
    fake.answer = refusing(answers, told("no", code="insufficient_quota"))
    assert (await served.post("/v1/messages", BODY)).status == 402
    assert "could not be kept: OSError" in caplog.text
