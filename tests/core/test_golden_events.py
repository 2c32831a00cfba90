"""Every event that was ever written can be read for ever: golden files for each type, byte by byte.

A new type needs a new file; a file once there never changes. A field that is added gets a default, so that the old file still
decodes, and a second file `TYPE~NAME.json` that has it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from aegis.core.events import FACTS, VERSION, Event

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "events"
FILES = sorted(GOLDEN.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_bytes_and_meaning(path: Path) -> None:
    content = path.read_bytes().removesuffix(b"\n")
    event = msgspec.json.decode(content, type=Event)
    assert event.type == path.stem.split("~")[0]
    fact = event.fact
    assert type(fact) is FACTS[event.type]
    assert msgspec.json.encode(fact) == bytes(event.data), "the fact is written differently from how it was"
    assert event.to_json() == content, "the event is written differently from how it was"
    assert event.v == VERSION


def test_every_type_is_pinned_with_all_its_fields() -> None:
    pinned = {path.stem.split("~")[0] for path in FILES}
    assert pinned == set(FACTS)
    for name, fact in FACTS.items():
        held: set[str] = set()
        for path in FILES:
            if path.stem.split("~")[0] == name:
                held |= set(msgspec.json.decode(path.read_bytes())["data"])
        assert held == set(fact.__struct_fields__), f"{name}: no golden file shows {set(fact.__struct_fields__) - held}"


def test_names_are_families() -> None:
    families = {"approval", "attention", "budget", "instance", "mail", "session", "tools", "turn"}
    assert {name.split(".")[0] for name in FACTS} <= families
    assert all(fact.type == name for name, fact in FACTS.items())


def test_the_envelope_of_an_event_is_the_documented_one() -> None:
    fields = [field.name for field in msgspec.structs.fields(Event)]
    assert fields == ["seq", "ts", "type", "data", "instance", "session", "turn", "v"]
