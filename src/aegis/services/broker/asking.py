"""Reading what a program asks for: whether it may ask, and for which model; and telling it which models there are."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

import msgspec

from aegis.core.errors import AegisError
from aegis.core.text import one_line
from aegis.services.broker.body import Asked, read, read_without_model
from aegis.services.broker.refusals import NO_RETRY, Refusal
from aegis.services.broker.routes import Route, key_of

if TYPE_CHECKING:
    from aegis.services.broker.connection import Request
    from aegis.services.broker.model import BrokerClient


def check_token(request: Request, client: BrokerClient) -> None:
    """Raise Refusal unless the request presents the instance's token in one of the ways that programs know."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    given = [
        request.headers.get("x-api-key", ""),
        request.headers.get("x-goog-api-key", ""),
        bearer.strip() if scheme.lower() == "bearer" else "",
        key_of(request.query) or "",
    ]
    if not client.token or not any(hmac.compare_digest(each.encode(), client.token.encode()) for each in given):
        raise Refusal(401, "this is not the token of this sandbox; use the one in its environment", headers=(NO_RETRY,))


def asked_for(route: Route, body: bytes) -> Asked:
    """What a request asks for. Raises Refusal when that is not clear."""
    try:
        if route.model is not None:
            return read_without_model(body, route.model, stream=route.kind == "stream")
        return read(body)
    except AegisError as error:
        raise Refusal(400, error.message, headers=(NO_RETRY,)) from None


def chosen(client: BrokerClient, requested: str) -> str | None:
    """The allowed model that a program means by its full name or by the provider's own name for it."""
    names = client.allowed
    if requested in names:
        return requested
    return next((name for name in names if name.partition("/")[2] == requested), None)


def models(client: BrokerClient, route: Route) -> bytes:
    """The instance's models, or the one that the route names, in the shape of its dialect. Raises Refusal for one it has not."""
    if route.model is not None:
        name = chosen(client, route.model)
        if name is None:
            raise not_its_model(client, route.model, 404)
        return msgspec.json.encode(_shown(route, name))
    shown = [_shown(route, name) for name in client.allowed]
    if route.dialect == "gemini":
        return msgspec.json.encode({"models": shown})
    if route.dialect == "anthropic":
        return msgspec.json.encode({"data": shown, "has_more": False, "first_id": shown[0]["id"], "last_id": shown[-1]["id"]})
    return msgspec.json.encode({"object": "list", "data": shown})


def not_its_model(client: BrokerClient, requested: str, status: int = 403) -> Refusal:
    """The answer to a program that asks for a model which is not its own."""
    names = ", ".join(f"`{name}`" for name in client.allowed)
    message = f"the model `{one_line(requested, 100)}` is not this agent's; allowed: {names}"
    return Refusal(status, message, headers=(NO_RETRY,))


def _shown(route: Route, name: str) -> dict[str, Any]:
    if route.dialect == "gemini":
        methods = ["generateContent", "streamGenerateContent", "countTokens"]
        return {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": methods}
    if route.dialect == "anthropic":
        return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
    return {"id": name, "object": "model", "created": 0, "owned_by": "aegis"}
