"""Reading what a program asks for: whether it may ask, for which model, in which dialect."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

import msgspec

from aegis.core.errors import AegisError
from aegis.services.broker.body import Asked, read
from aegis.services.broker.refusals import NO_RETRY, Refusal

if TYPE_CHECKING:
    from aegis.models import Dialect
    from aegis.services.broker.connection import Request
    from aegis.services.broker.model import BrokerClient


def check_token(request: Request, client: BrokerClient) -> None:
    """Raise Refusal unless the request presents the instance's token in one of the ways that programs know."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    given = [
        request.headers.get("x-api-key", ""),
        request.headers.get("x-goog-api-key", ""),
        bearer.strip() if scheme.lower() == "bearer" else "",
    ]
    if not client.token or not any(hmac.compare_digest(each.encode(), client.token.encode()) for each in given):
        raise Refusal(401, "this is not the token of this sandbox; use the one in its environment", headers=(NO_RETRY,))


def asked_for(body: bytes) -> Asked:
    """What a body asks for. Raises Refusal when that is not clear."""
    try:
        return read(body)
    except AegisError as error:
        raise Refusal(400, error.message) from None


def chosen(client: BrokerClient, requested: str) -> str | None:
    """The allowed model that a program means by its full name or by the provider's own name for it."""
    names = (client.model, *client.models)
    if requested in names:
        return requested
    return next((name for name in names if name.partition("/")[2] == requested), None)


def models(client: BrokerClient) -> bytes:
    """The instance's models in a form that serves both dialects."""
    names = list(dict.fromkeys((client.model, *client.models)))
    data = [
        {
            "id": name,
            "object": "model",
            "type": "model",
            "display_name": name,
            "created": 0,
            "created_at": "1970-01-01T00:00:00Z",
            "owned_by": "aegis",
        }
        for name in names
    ]
    return msgspec.json.encode({"object": "list", "data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]})


def guess(request: Request) -> Dialect:
    """The dialect of a program that asks for what is not here."""
    anthropic = "anthropic-version" in request.headers or "x-api-key" in request.headers or request.path.startswith("/v1/messages")
    return "anthropic" if anthropic else "openai"
