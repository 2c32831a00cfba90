"""Values are found in every form that a program is likely to print them in, and nothing else is touched."""

import base64
import json
import shlex
import subprocess
import traceback
from urllib.parse import quote, quote_plus, urlencode

import msgspec
import pytest

from aegis.core.events import Outcome, Text, TextDelta, ThinkingDelta, ToolProgress, TurnFinished
from aegis.services.agents.holding import Holding
from aegis.services.secrets import Redactor

KEY = "sk-canary-77aa55cc33ee"
ODD = 'p@ss "word"/+\\ ä&=?\u2028%'
LONG = "ghp_" + "0123456789abcdefghijklmnopqrstuvwxyz" * 5
PEM = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n-----END KEY-----"
VALUES = {"KEY": KEY, "ODD": ODD, "LONG": LONG, "PEM": PEM}


@pytest.fixture
def redactor() -> Redactor:
    it = Redactor()
    it.know(VALUES.items())
    return it


def shown(value: str) -> dict[str, str]:
    """How programs tell a value."""
    b64 = base64.b64encode
    try:
        raise ValueError(f"cannot log in with {value}")
    except ValueError:
        trace = traceback.format_exc()
    return {
        "as it is": value,
        "in a sentence": f"the key is {value}, use it",
        "in a traceback": trace,
        "base64": b64(value.encode()).decode(),
        "base64 of a line": b64(f"{value}\n".encode()).decode(),
        "base64 of a header": b64(f"Authorization: Bearer {value}".encode()).decode(),
        "base64 of a pair": b64(f"x:{value}".encode()).decode(),
        "base64 of a pair, shifted": b64(f"xy:{value}!".encode()).decode(),
        "base64 for URLs": base64.urlsafe_b64encode(f"{value}".encode()).decode(),
        "the program base64": subprocess.run(["base64"], input=value.encode(), capture_output=True, check=True).stdout.decode(),
        "python's own lines": base64.encodebytes(value.encode()).decode(),
        "a URL": f"https://x/?k={quote(value, safe='')}",
        "a URL's path": f"https://x/{quote(value)}",
        "a form": urlencode({"k": value}),
        "a form with plus": quote_plus(value),
        "JSON": json.dumps({"k": value}, ensure_ascii=False),
        "JSON in ASCII": json.dumps({"k": value}),
        "JSON in JSON": json.dumps({"k": json.dumps({"v": value}, ensure_ascii=False)}, ensure_ascii=False),
        "hexadecimal": value.encode().hex(),
    }


def left(text: str, value: str) -> bool:
    """Whether somebody who reads the text has the value."""
    probe = value.splitlines()[1] if "\n" in value else value[: len(value) // 2]
    return value in text or (len(value) > 12 and probe in text)


@pytest.mark.parametrize("name", VALUES)
def test_every_form_is_found(redactor: Redactor, name: str) -> None:
    for how, text in shown(VALUES[name]).items():
        clean = redactor.clean_text(text)
        assert f"[secret {name}]" in clean, (how, text, clean)
        assert not left(clean, VALUES[name]), (how, clean)
        as_event = redactor.clean(msgspec.json.encode(Text(f"it says {text} here")))
        assert f"[secret {name}]".encode() in as_event, (how, as_event)
        assert not left(msgspec.json.decode(as_event)["text"], VALUES[name]), (how, as_event)


def test_wherever_it_stands(redactor: Redactor) -> None:
    for before in range(20):
        for after in range(10):
            text = "x" * before + KEY + "y" * after
            assert redactor.clean(text.encode()) == f"{'x' * before}[secret KEY]{'y' * after}".encode()


def test_what_is_not_secret_stays(redactor: Redactor) -> None:
    for text in ("", "x", "sk-canary", KEY[:-1], KEY[1:-1], KEY.upper(), "ä" * 500, "\ud800 broken"):
        assert redactor.clean_text(text) is text
    short = Redactor()
    short.know([("SHORT", "1234567"), ("EMPTY", "")])
    assert short.clean(b"1234567") == b"1234567"
    short.know([("EIGHT", "12345678")])
    assert short.clean(b"a12345678b") == b"a[secret EIGHT]b"
    short.know([])
    assert short.clean(b"12345678") == b"12345678"


def test_a_shell_shows_nothing(redactor: Redactor) -> None:
    script = f"K={shlex.quote(KEY)}; echo $K; echo $K | base64; printf %s $K | od -An -c | head -1; set -x; true $K"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert KEY not in redactor.clean_text(done.stdout + done.stderr)


class FakeStore:
    def __init__(self, redactor: Redactor) -> None:
        self.cleaner = redactor


@pytest.mark.parametrize("make", [TextDelta, ThinkingDelta, lambda text: ToolProgress("call_1", text)])
def test_a_value_in_pieces_is_never_told_in_pieces(redactor: Redactor, make: type) -> None:
    text = f"say sk- and s and {KEY} then {base64.b64encode(KEY.encode()).decode()} and {KEY[:9]}, all of it; ends with sk-can"
    for size in (1, 2, 3, 7, 22, 100):
        holding, told = Holding(FakeStore(redactor)), []
        for at in range(0, len(text), size):
            piece = holding.pass_on(make(text[at : at + size]))
            told += [] if piece is None else [redactor.clean_text(piece.text)]
        told += [redactor.clean_text(piece.text) for piece in holding.release()]
        assert "".join(told).replace("==", "") == redactor.clean_text(text).replace("==", ""), size
        assert not left("".join(told), KEY)
        assert holding.release() == []


def test_pieces_are_not_held_without_reason(redactor: Redactor) -> None:
    holding = Holding(FakeStore(redactor))
    piece = TextDelta("hello world ")
    assert holding.pass_on(piece) is piece
    whole = Text("x")
    assert holding.pass_on(whole) is whole
    assert holding.pass_on(TextDelta("sk-")) is None
    assert holding.pass_on(TextDelta("sk-", parent="p")) is None  # another's
    assert holding.pass_on(TextDelta("et")) == TextDelta("sk-et")
    assert holding.release() == [TextDelta("sk-", parent="p")]
    assert Holding(FakeStore(Redactor())).pass_on(TextDelta("sk-")) == TextDelta("sk-")


@pytest.mark.parametrize(
    "word", ["completed", "complete", "in_reply_to", "interrupted", "call_id_", "signature", "tool_result", "in_progress"]
)
def test_a_word_of_aegis_as_a_secret_makes_no_record_unreadable(word: str) -> None:
    redactor = Redactor()
    redactor.know([("SILLY", word), ("KEY", KEY)])
    fact = TurnFinished(Outcome.COMPLETED, ["m"], text=f"{KEY} is_completed", error={"will_continue": True})
    clean = redactor.clean(msgspec.json.encode(fact))
    assert KEY.encode() not in clean
    assert msgspec.json.decode(clean, type=TurnFinished).outcome is Outcome.COMPLETED
