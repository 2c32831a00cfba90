"""The protocol alone: bytes in, what is to be done and said out, for both eras."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.core.envelopes import Image
from aegis.daemon.mcp import protocol
from aegis.daemon.mcp.protocol import Heard, Offer, hear

OFFER = Offer("say hello", ({"name": "aegis_a", "description": "d", "inputSchema": {"type": "object"}},), frozenset({"aegis_a"}))
VERSION = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
META = {VERSION: "2026-07-28", CAPABILITIES: {}}


def said(message: Any, headers: dict[str, str] | None = None) -> Heard:
    return hear(message if isinstance(message, bytes) else json.dumps(message).encode(), OFFER, headers)


def request(method: str, params: Any = None, ident: Any = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": ident, "method": method} | ({"params": params} if params is not None else {})


def modern(method: str, ident: Any = 1, **params: Any) -> dict[str, Any]:
    return request(method, {**params, "_meta": META}, ident)


def headers_of(message: dict[str, Any], **more: str) -> dict[str, str]:
    found = {"mcp-protocol-version": "2026-07-28", "mcp-method": message["method"]}
    if "name" in message["params"]:
        found["mcp-name"] = message["params"]["name"]
    return found | {key.replace("_", "-"): value for key, value in more.items()}


def only_error(heard: Heard) -> tuple[int, int]:
    (answer,) = heard.answers
    assert "result" not in answer
    return answer["error"]["code"], heard.status


# The era with a handshake.


@pytest.mark.parametrize("version", protocol.HANDSHAKE)
def test_the_handshake_takes_the_revision_of_the_client(version: str) -> None:
    heard = said(request("initialize", {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}))
    (answer,) = heard.answers
    assert answer["result"]["protocolVersion"] == version
    assert answer["result"]["instructions"] == "say hello"
    assert answer["result"]["capabilities"] == {"tools": {"listChanged": False}}
    assert answer["result"]["serverInfo"]["name"] == "aegis"
    assert heard.opened
    assert heard.status == 200


@pytest.mark.parametrize("version", ["2099-01-01", "", None, 7])
def test_the_handshake_offers_the_newest_of_its_own_for_one_that_is_unknown(version: Any) -> None:
    (answer,) = said(request("initialize", {"protocolVersion": version})).answers
    assert answer["result"]["protocolVersion"] == "2025-11-25"


def test_ping_and_unknown_methods() -> None:
    assert said(request("ping", ident="x")).answers == [{"jsonrpc": "2.0", "id": "x", "result": {}}]
    for method in ("prompts/list", "resources/list", "logging/setLevel", "server/discover", "no/such"):
        assert only_error(said(request(method))) == (protocol.METHOD_NOT_FOUND, 200)


def test_notifications_are_not_answered() -> None:
    for method in ("notifications/initialized", "notifications/roots/list_changed", "anything"):
        heard = said({"jsonrpc": "2.0", "method": method})
        assert (heard.answers, heard.calls, heard.status) == ([], [], 202)
    assert said({"jsonrpc": "2.0", "id": 4, "result": {}}).status == 202  # an answer to nothing


def test_a_request_can_be_called_off() -> None:
    heard = said({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "7", "reason": "why not"}})
    assert heard.cancelled == ["7"]
    for params in ({}, {"requestId": None}, {"requestId": True}, {"requestId": [1]}, []):
        assert said({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}).cancelled == []


def test_the_list_of_tools() -> None:
    (answer,) = said(request("tools/list")).answers
    assert [tool["name"] for tool in answer["result"]["tools"]] == ["aegis_a"]
    assert set(answer["result"]) == {"tools"}
    assert only_error(said(request("tools/list", {"cursor": "2"})))[0] == protocol.INVALID_PARAMS


def test_a_call_with_and_without_a_token() -> None:
    (call,) = said(request("tools/call", {"name": "aegis_a", "arguments": {"x": 1}, "_meta": {"progressToken": 0}})).calls
    assert (call.ident, call.name, call.arguments, call.modern, call.token) == (1, "aegis_a", {"x": 1}, False, 0)
    (call,) = said(request("tools/call", {"name": "aegis_a", "_meta": {"progressToken": True}})).calls
    assert (call.arguments, call.token) == ({}, None)
    assert protocol.progress(said(request("tools/call", {"name": "aegis_a", "_meta": {"progressToken": "t"}})).calls[0], 3, "on")[
        "params"
    ] == {"progressToken": "t", "progress": 3, "message": "on"}


@pytest.mark.parametrize(
    "params",
    [
        {"name": "aegis_b"},
        {"name": 7},
        {},
        {"name": "aegis_a", "arguments": []},
        {"name": "aegis_a", "arguments": "x"},
        {"name": "x" * 10**6},
    ],
)
def test_a_call_that_cannot_be_one(params: dict[str, Any]) -> None:
    heard = said(request("tools/call", params))
    assert only_error(heard) == (protocol.INVALID_PARAMS, 200)
    assert len(json.dumps(heard.answers)) < 500


def test_the_nearest_tool_is_named() -> None:
    (answer,) = said(request("tools/call", {"name": "aegis_aa"})).answers
    assert "aegis_a?" in answer["error"]["message"]


# What is no message.


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", protocol.PARSE_ERROR),
        (b"{", protocol.PARSE_ERROR),
        (b"\xff\xfe", protocol.PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"} x', protocol.PARSE_ERROR),
        (b"[" * 100_000, protocol.PARSE_ERROR),
        (b'{"a":' * 100_000, protocol.PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + b"[" * 100_000 + b"]" * 100_000 + b"}", protocol.PARSE_ERROR),
        (b"7", protocol.INVALID_REQUEST),
        (b"null", protocol.INVALID_REQUEST),
        (b"{}", protocol.INVALID_REQUEST),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', protocol.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1}', protocol.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', protocol.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', protocol.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', protocol.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', protocol.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', protocol.INVALID_REQUEST),
    ],
)
def test_what_is_no_message(raw: bytes, code: int) -> None:
    assert only_error(said(raw)) == (code, 400)


def test_params_that_are_no_object() -> None:
    assert only_error(said(request("ping", [1]))) == (protocol.INVALID_PARAMS, 400)


@given(st.binary(max_size=200))
def test_no_bytes_raise(raw: bytes) -> None:
    assert said(raw).status in (200, 202, 400, 404)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["jsonrpc", "id", "method", "params", "_meta", "x"]), inner, max_size=5)
    ),
    max_leaves=12,
)


@given(_JSON, st.sampled_from(["tools/call", "tools/list", "initialize", "server/discover", "notifications/cancelled", "ping"]))
def test_no_message_raises(params: Any, method: str) -> None:
    for message in (
        {"jsonrpc": "2.0", "id": 1, "method": method, "params": params},
        {"jsonrpc": "2.0", "method": method, "params": params},
        params,
    ):
        for headers in (None, {}, {"mcp-protocol-version": "2026-07-28"}):
            heard = said(json.dumps(message).encode(), headers)
            json.dumps(heard.answers)


# Lists of messages.


def test_a_list_is_answered_by_a_list() -> None:
    heard = said(
        [request("ping", ident=1), {"jsonrpc": "2.0", "method": "x"}, request("no", ident=2), request("tools/call", {"name": "aegis_a"}, 3)]
    )
    assert heard.batch
    assert heard.status == 200
    assert [answer["id"] for answer in heard.answers] == [1, 2]
    assert [call.ident for call in heard.calls] == [3]
    assert said([{"jsonrpc": "2.0", "method": "x"}]).status == 202


@pytest.mark.parametrize(
    ("messages", "headers"),
    [
        ([], None),
        ([request("ping")] * (protocol.MAX_BATCH + 1), None),
        ([request("initialize")], None),
        ([modern("tools/list")], None),
        ([request("ping")], {"mcp-protocol-version": "2025-06-18"}),
        ([request("ping")], {"mcp-protocol-version": "2026-07-28"}),
    ],
)
def test_a_list_that_is_none(messages: list[Any], headers: dict[str, str] | None) -> None:
    heard = said(messages, headers)
    assert only_error(heard) == (protocol.INVALID_REQUEST, 400)
    assert not heard.batch


# The era without a handshake.


def test_discovery() -> None:
    message = modern("server/discover")
    (answer,) = said(message, headers_of(message)).answers
    told = answer["result"]
    assert told["supportedVersions"] == ("2026-07-28",)
    assert told["instructions"] == "say hello"
    assert told["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "aegis"
    assert (told["resultType"], told["cacheScope"]) == ("complete", "private")


def test_tools_in_the_newer_era() -> None:
    message = modern("tools/list")
    (answer,) = said(message, headers_of(message)).answers
    assert answer["result"]["resultType"] == "complete"
    message = modern("tools/call", name="aegis_a", arguments={})
    (call,) = said(message, headers_of(message)).calls
    assert call.modern
    assert protocol.result(call, "t", None, [], failed=False)["result"]["resultType"] == "complete"
    assert said(message).calls == [call]  # without HTTP there are no headers
    encoded = f"=?base64?{base64.b64encode(b'aegis_a').decode()}?="
    assert said(message, headers_of(message, mcp_name=encoded)).calls == [call]


@pytest.mark.parametrize(
    ("change", "code", "status"),
    [
        ({"mcp_protocol_version": "2025-11-25"}, protocol.HEADER_MISMATCH, 400),
        ({"mcp_method": "tools/list"}, protocol.HEADER_MISMATCH, 400),
        ({"mcp_name": "aegis_b"}, protocol.HEADER_MISMATCH, 400),
        ({"mcp_name": "=?base64?!!!?="}, protocol.HEADER_MISMATCH, 400),
    ],
)
def test_headers_that_say_something_else(change: dict[str, str], code: int, status: int) -> None:
    message = modern("tools/call", name="aegis_a")
    assert only_error(said(message, headers_of(message, **change))) == (code, status)


def test_what_the_newer_era_refuses() -> None:
    for method in ("ping", "prompts/list", "subscriptions/listen"):
        message = modern(method)
        assert only_error(said(message, headers_of(message))) == (protocol.METHOD_NOT_FOUND, 404)
    message = modern("tools/call", name="nope")
    assert only_error(said(message, headers_of(message))) == (protocol.INVALID_PARAMS, 400)
    without = request("tools/list", {"_meta": {VERSION: "2026-07-28"}})
    assert only_error(said(without, headers_of(without))) == (protocol.INVALID_PARAMS, 400)
    bare = request("tools/list", {})
    assert only_error(said(bare, headers_of(bare)))[0] == protocol.INVALID_PARAMS
    odd = request("tools/list", {"_meta": {VERSION: 7, CAPABILITIES: {}}})
    assert only_error(said(odd)) == (protocol.INVALID_PARAMS, 400)


def test_a_revision_that_nobody_speaks() -> None:
    message = request("tools/list", {"_meta": {VERSION: "2099-01-01", CAPABILITIES: {}}})
    for heard in (
        said(message),
        said(message, headers_of(message, mcp_protocol_version="2099-01-01")),
        said(request("tools/list", {}), {"mcp-protocol-version": "2099-01-01"}),
    ):
        assert only_error(heard) == (protocol.UNSUPPORTED_VERSION, 400)
        assert heard.answers[0]["error"]["data"] == {"supported": ("2026-07-28",), "requested": "2099-01-01"}


def test_a_result_has_text_data_and_pictures() -> None:
    call = said(request("tools/call", {"name": "aegis_a"})).calls[0]
    found = protocol.result(call, "text", {"a": 1}, [Image("image/png", b"\x89PNG")], failed=True)
    assert found == {
        "jsonrpc": "2.0",
        "id": 1,
        "result": {
            "content": [
                {"type": "text", "text": "text"},
                {"type": "image", "data": base64.b64encode(b"\x89PNG").decode(), "mimeType": "image/png"},
            ],
            "isError": True,
            "structuredContent": {"a": 1},
        },
    }
