"""The OpenAPI document is made of the table of routes, and the table is all there is."""

from __future__ import annotations

import json
import re
import typing
from typing import Any

import pytest
from starlette.routing import Route, WebSocketRoute

from aegis.client import shapes as told
from aegis.daemon.http import document
from aegis.daemon.http.app import _refuse, routes, rows
from aegis.daemon.http.table import Row

DOCUMENT: dict[str, Any] = json.loads(document.text(rows()))
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
OPERATIONS = [(path, method, operation) for path, item in DOCUMENT["paths"].items() for method, operation in item.items()]
#: What speaks another protocol than this API's.
OTHERS = {"/mcp"}


def test_every_route_is_in_the_document() -> None:
    routed = [route for route in routes() if isinstance(route, Route) and route.endpoint is not _refuse]
    served = {(route.path, method) for route in routed for method in route.methods or () if method != "HEAD"}
    described = {(path, method) for row in rows() for path, method in ((r.path, row.method) for r in row.routes())}
    assert {(path, method) for path, method in served if path not in OTHERS} == described
    assert {(row.public_path, row.method.lower()) for row in rows()} == {(path, method) for path, method, _ in OPERATIONS}
    sockets = {route.path for route in routes() if isinstance(route, WebSocketRoute)}
    assert sockets == {row.path for row in rows() if row.socket}


def test_it_is_the_same_each_time() -> None:
    document.document.cache_clear()
    assert json.loads(document.text(rows())) == DOCUMENT


def test_names_are_unique_and_plain() -> None:
    names = [operation["operationId"] for *_, operation in OPERATIONS]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z_]+", name) for name in names)
    assert [name for name in SCHEMAS if "." in name] == [], "two shapes of one name: call one of them otherwise"


def test_every_reference_leads_somewhere_and_every_shape_is_described() -> None:
    refs = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(DOCUMENT)))
    assert refs <= set(SCHEMAS)
    assert [name for name, schema in SCHEMAS.items() if schema.get("type") == "object" and not schema.get("description")] == []


def test_every_operation_says_what_it_is() -> None:
    for row in rows():
        assert row.summary.endswith("."), row.name
        assert row.tag in {tag["name"] for tag in DOCUMENT["tags"]}, row.name
        assert row.answer is not None or row.socket, row.name
        assert set(row.errors) <= set(document._ERRORS), row.name
        assert all(place.meaning for _, place in document.parameters(row)), row.name
        if not row.mutates:
            assert row.body is None, f"{row.name}: a GET has no body"


def test_all_want_the_bearer_and_say_so() -> None:
    assert DOCUMENT["security"] == [{"bearer": []}]
    for *_, operation in OPERATIONS:
        assert "security" not in operation
        assert {"400", "401", "403"} <= set(operation["responses"])


def test_the_frames_of_the_websocket_are_described() -> None:
    frames = DOCUMENT["x-aegis-websocket"]
    assert set(frames["sent"]["discriminator"]["mapping"]) == {"subscribe", "unsubscribe", "ping"}
    assert set(frames["received"]["discriminator"]["mapping"]) == {
        "hello", "subscribed", "unsubscribed", "event", "evicted", "alive", "pong", "error",
    }  # fmt: skip


#: The client's name of a shape, and the document's where it is another one.
CLIENTS = {
    "InstanceInfo": "InstanceInfo", "InstanceRequest": "StartRequest", "MountSpec": "Mount", "ImageSpec": "Image",
    "ApprovalInfo": "ApprovalInfo", "Usage": "UsageInfo", "Stats": "Stats", "Receipt": "FrameReceipt", "Frame": "Frame",
    "FramePage": "FramePage", "EventPage": "EventPage", "Transcript": "Transcript", "Mail": "MailReceipt", "SecretInfo": "SecretInfo",
    "Trust": "TrustState",
}  # fmt: skip


@pytest.mark.parametrize("name", CLIENTS)
def test_the_client_knows_no_key_that_is_not_sent(name: str) -> None:
    """A newer daemon may send more keys than a client knows, so that way round nothing is asked."""
    client, schema = getattr(told, name), SCHEMAS[CLIENTS[name]]
    assert set(typing.get_type_hints(client)) <= set(schema["properties"])


def test_a_row_is_found_by_everything_it_says() -> None:
    (row,) = [row for row in rows() if row.name == "act_on_instance"]
    assert isinstance(row, Row)
    assert {route.path.rpartition("/")[2] for route in row.routes()} == {"start", "pause", "resume", "restart", "disable"}  # type: ignore[attr-defined]
