"""The generated tables of the documentation are those of the program."""

from __future__ import annotations

import re
import typing
from typing import Any

import msgspec
import pytest
from tests.docs.reference import DOCS, GENERATED, rendered

from aegis.client.shapes import FRAME_TYPES
from aegis.core.events import FACTS, Event
from aegis.daemon.http.frames import FRAME_OF, render


def test_the_frames_in_the_documentation_are_those_that_are_sent() -> None:
    text = (DOCS / "messages.md").read_text()
    table = text[text.index("<!-- begin frames -->") : text.index("<!-- end frames -->")]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    told = {name: set(re.findall(r"`(\w+)`", payload)) for names, payload in rows for name in re.findall(r"`([\w.]+)`", names)}
    assert set(told) - {"event.evicted"} == set(FRAME_OF.values()) == set(FRAME_TYPES)
    for kind, frame_type in FRAME_OF.items():
        fields = [field for field in msgspec.structs.fields(FACTS[kind]) if field.name != "parent"]  # what sub-agents say has no frame
        data = msgspec.json.encode({field.name: _value(field.type) for field in fields})
        frame = render(Event(seq=1, ts=1.0, type=kind, data=msgspec.Raw(data), instance="i", session="host:default"))
        assert frame is not None
        assert set(frame["payload"]) == told[frame_type], frame_type


def _value(kind: Any) -> Any:
    """Some value of a type, so that no field is left out."""
    if None in typing.get_args(kind) or type(None) in typing.get_args(kind):
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is typing.Literal:
        return typing.get_args(kind)[0]
    kind = typing.get_origin(kind) or kind
    some: dict[Any, Any] = {str: "x", int: 1, float: 1.0, bool: True, list: [], dict: {"k": "v"}}
    return some[kind] if kind in some else next(iter(kind))


@pytest.mark.parametrize("document", sorted({name for name, _ in GENERATED}))
def test_tables_are_up_to_date(document: str) -> None:
    text, wanted = rendered(document)
    assert text == wanted, f"docs/{document} is out of date: run `./dev docs`"
