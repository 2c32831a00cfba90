"""How a turn looks: pieces once, whole texts only where pieces are missing, tools in a line."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from aegis.cli import render
from aegis.cli.chat import View
from aegis.cli.output import Output


def _shown(monkeypatch: pytest.MonkeyPatch, *frames: tuple[str, dict[str, Any]]) -> str:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, write_through=True))
    output = Output()
    view = View(output)
    for kind, payload in frames:
        view.show(kind, payload)
    output.flush()
    shown = buffer.getvalue().decode()
    sys.stdout.detach()  # type: ignore[attr-defined]
    return shown


def _text(text: str, kind: str = "assistant.delta") -> tuple[str, dict[str, Any]]:
    return kind, {"text": text}


def test_pieces_are_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _shown(monkeypatch, _text("Hel"), _text("lo"), _text("Hello", "assistant.text")) == "Hello\n"


def test_missing_pieces_are_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _shown(monkeypatch, _text("Hel"), _text("Hello", "assistant.text")) == "Hello\n"
    assert _shown(monkeypatch, _text("Hello", "assistant.text")) == "Hello\n"
    assert _shown(monkeypatch, _text("lo"), _text("Hello", "assistant.text")) == "lo\nHello\n"


def test_each_text_of_a_turn_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = (_text("one"), _text("one", "assistant.text"), _text("two"), _text("two", "assistant.text"))
    assert _shown(monkeypatch, *frames) == "one\ntwo\n"


def test_tools_and_usage_are_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = _shown(
        monkeypatch,
        _text("hmm", "reasoning.delta"),
        _text("hmm", "reasoning.done"),
        ("tool.call", {"name": "bash", "input": {"command": "ls\n-l"}}),
        ("tool.result", {"ok": False, "output": "no\nsuch file", "ms": 12.4}),
        _text("done"),
        ("assistant.done", {"usage": {"input": 1200, "output": 30, "cached": 1000, "cost_usd": 0.01}, "ms": 1500}),
    )
    assert shown == ('hmm\n→ bash {"command": "ls\\n-l"}\n✗ no such file  12 ms\ndone\n1,200 in, 30 out, 1,000 cached, $0.0100, 1.5 s\n')


@pytest.mark.parametrize(
    "value", ["2026-01-31T12:00:00.123456789Z", "2026-01-31T12:00:00.123Z", "2026-01-31T14:00:00.123+02:00", 1769860800.123]
)
def test_times_of_every_form_are_read(value: str | float) -> None:
    found = render.moment(value)
    assert found is not None
    assert int(found.timestamp()) == 1769860800
    assert found.microsecond // 1000 == 123
    assert render.when(None) == "-"
