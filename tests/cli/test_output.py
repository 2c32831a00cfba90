"""What is shown cannot act on a terminal, JSON is UTF-8 and parses, colour is only where it is wanted."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.cli.output import Output
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import printable

EVIL = "a\x1b[31mred\x1b]0;title\x07\x9b2J\u202eb\rc\x00"


class Screen(io.BytesIO):
    """A standard stream that says whether it is a terminal."""

    def __init__(self, tty: bool = False) -> None:
        super().__init__()
        self.tty = tty

    @property
    def buffer(self) -> Screen:
        return self

    def isatty(self) -> bool:
        return self.tty

    @property
    def text(self) -> str:
        return self.getvalue().decode()


def _screens(json: bool = False) -> tuple[Output, Screen, Screen]:
    """An output that writes to two screens that are no terminals."""
    out, err = Screen(), Screen()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        output = Output()
    output.json = json
    return output, out, err


ROWS = [["a", "short"], ["long-handle-of-some-instance", "a text that goes on for quite some time, and then some more"], ["世界", "wide"]]


def _table(columns: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    output, out, _ = _screens()
    output._out_tty, output.plain = True, True
    output.table(("HANDLE", "TEXT"), ROWS)
    output.flush()
    return out.text.splitlines()


def test_a_table_fits_the_terminal_or_becomes_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _table(200, monkeypatch)[2] == "  ".join(ROWS[1])
    assert _table(60, monkeypatch) == [
        "HANDLE" + " " * 24 + "TEXT",
        "a" + " " * 29 + "short",
        "long-handle-of-some-instance  a text that goes on for quite…",
        "世界" + " " * 26 + "wide",
    ]
    assert all(len(line) <= 30 for line in _table(30, monkeypatch))
    assert _table(20, monkeypatch)[:3] == ["HANDLE  a", "TEXT    short", ""]


def test_text_from_anybody_loses_what_acts_on_a_terminal() -> None:
    output, out, err = _screens()
    output.say(EVIL)
    output.piece(EVIL)
    output.table(("NAME",), [[EVIL]])
    output.pairs([("key", EVIL)])
    output.warn(EVIL)
    output.hint(EVIL)
    output.error(AegisError(ErrorKind.FAILED, EVIL, EVIL, stderr=EVIL))
    output.flush()
    shown = out.text + err.text
    assert shown == printable(shown)
    assert shown.count("ared") == 9


@given(st.recursive(st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))
def test_json_reads_back_and_cannot_act_either(value: Any) -> None:
    output, out, _ = _screens(json=True)
    output.data(value)
    output.flush()
    assert json.loads(out.text) == value
    assert out.text == printable(out.text)
    assert out.text.count("\n") == 1


def test_json_keeps_letters_as_they_are() -> None:
    output, out, err = _screens(json=True)
    output.data({"ü": "→ 漢", "lone": "\ud800"})
    output.say("not this")
    output.warn("nor this")
    output.flush()
    assert out.text == '{"ü": "→ 漢", "lone": "\\ud800"}\n'
    assert err.text == ""


def test_errors_are_one_line_a_tail_and_a_hint() -> None:
    output, _, err = _screens()
    output.error(AegisError(ErrorKind.FAILED, "it\nbroke", "mend it", stderr="last\nwords"))
    assert err.text == "error: it broke\n  | last\n  | words\nhint: mend it\n"


def test_errors_in_json_are_one_object() -> None:
    error = AegisError(ErrorKind.NOT_FOUND, "no `x`", "see `ls`", nearest="y")
    output, _, err = _screens(json=True)
    output.error(error)
    assert json.loads(err.text) == error.to_dict()


def test_columns_stand_under_their_heads() -> None:
    output, out, _ = _screens()
    output.table(("A", "LONG", "B"), [["1", "2", "3"], [("wider", "bold"), "x\ny", "4"]])
    output.flush()
    assert out.text == "A      LONG  B\n1      2     3\nwider  x y   4\n"


@pytest.mark.parametrize(("tty", "plain", "coloured"), [(True, False, True), (True, True, False), (False, False, False)])
def test_colour_is_for_a_terminal_that_wants_it(monkeypatch: pytest.MonkeyPatch, tty: bool, plain: bool, coloured: bool) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    if plain:
        monkeypatch.setenv("NO_COLOR", "1")
    out = Screen(tty)
    monkeypatch.setattr(sys, "stdout", out)
    Output().say(("x", "red"))
    assert out.text == ("\x1b[31mx\x1b[0m\n" if coloured else "x\n")


def test_a_closed_standard_output_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    output = Output()
    output.say("x")
    output.flush()
