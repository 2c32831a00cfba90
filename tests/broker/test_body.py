import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.core.errors import AegisError
from aegis.services.broker.body import read, with_model

TEXT = st.text(max_size=12) | st.sampled_from(['"', "\\", "model", '"model":"x"', "ä\u2028", "\U0001f600"])
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
KEY = TEXT.filter(lambda key: key.lower() not in ("model", "models"))
SPACE = st.sampled_from(["", " ", "\n", "\t \r\n"])


def escaped(text: str) -> str:
    return '"' + "".join(f"\\u{ord(char):04x}" for char in text) + '"'


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, bytes, bytes, str]:
    """A body in three parts: before, within and after the value of `model`, and that value."""
    items = draw(st.dictionaries(KEY, VALUE, max_size=6))
    ascii_only = draw(st.booleans())
    rendered = [
        (json.dumps(key, ensure_ascii=ascii_only), json.dumps(value, ensure_ascii=ascii_only, indent=draw(st.sampled_from([None, 1]))))
        for key, value in items.items()
    ]
    model = draw(st.text(alphabet=st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=20))
    value = draw(st.sampled_from([json.dumps(model), escaped(model)]))
    place = draw(st.integers(0, len(rendered)))
    rendered.insert(place, (draw(st.sampled_from(['"model"', '"mod\\u0065l"', escaped("model")])), value))
    space = [draw(SPACE) for _ in range(4)]
    pieces = [f"{space[0]}{key}{space[1]}:{space[2]}{each}{space[3]}" for key, each in rendered]
    before = space[0] + "{" + ",".join(pieces[:place]) + ("," if place else "") + pieces[place][: pieces[place].rindex(value)]
    after = (
        pieces[place][pieces[place].rindex(value) + len(value) :] + "".join("," + piece for piece in pieces[place + 1 :]) + "}" + space[1]
    )
    return before.encode("utf-8", "surrogatepass"), value.encode(), after.encode("utf-8", "surrogatepass"), model


@given(body=bodies(), name=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20))
def test_only_the_model_changes(body: tuple[bytes, bytes, bytes, str], name: str) -> None:
    before, value, after, model = body
    whole = before + value + after
    asked = read(whole)
    assert asked.model == model
    changed = with_model(whole, asked, name)
    assert changed.startswith(before)
    assert changed.endswith(after)
    assert json.loads(changed) == {**json.loads(whole), "model": name}
    assert len(changed) == len(before) + len(json.dumps(name, ensure_ascii=False).encode()) + len(after) or "\\" in json.dumps(
        name, ensure_ascii=False
    )


@given(items=st.lists(st.tuples(st.sampled_from(["model", "a", "b", "max_tokens", "stream"]), VALUE), max_size=6))
def test_a_key_that_stands_twice_is_refused(items: list[tuple[str, Any]]) -> None:
    body = ("{" + ",".join(f"{json.dumps(key)}:{json.dumps(value)}" for key, value in items) + "}").encode()
    keys = [key for key, _ in items]
    strings = [value for key, value in items if key == "model"]
    fine = len(set(keys)) == len(keys) and len(strings) == 1 and isinstance(strings[0], str)
    try:
        asked = read(body)
    except AegisError:
        assert not fine
    else:
        assert fine
        assert asked.model == strings[0]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"model"',
        b"{}",
        b"{",
        b'{"model":}',
        b'{"model":"a"} x',
        b'{"model":"a",}',
        b'{"model":1}',
        b'{"model":null}',
        b'{"model":["a"]}',
        b'\xef\xbb\xbf{"model":"a"}',
        '{"model":"a"}'.encode("utf-16"),
        b'{"model":"a","model":"b"}',
        b'{"model":"a","mod\\u0065l":"b"}',
        b'{"model":"a","Model":"b"}',
        b'{"MODEL":"a"}',
        b'{"model":"a","models":["b"]}',
        b'{"x":12345,"model":"a","x":12}',
        b'{"\xff":1,"model":"a"}',
        b'{"model":"a","x":' + b"[" * 100_000,
        b'{"model":"' + b"a" * 5000 + b'"}',
        b"{" + b",".join(b'"k%d":1' % i for i in range(2000)) + b',"model":"a"}',
    ],
)
def test_what_is_not_one_clear_request_is_refused(body: bytes) -> None:
    with pytest.raises(AegisError):
        read(body)


def test_what_else_is_read() -> None:
    asked = read(b'{"model":"a","stream":true,"max_tokens":5}')
    assert (asked.model, asked.stream, asked.max_tokens) == ("a", True, 5)
    asked = read(b'{"model":"a","stream":1,"max_completion_tokens":7,"max_tokens":5}')
    assert (asked.stream, asked.max_tokens) == (False, 7)
    assert read(b'{"model":"a","max_tokens":true}').max_tokens is None


def test_a_large_body_is_changed_in_place() -> None:
    image = "A" * 8_000_000
    body = json.dumps({"messages": [{"x": image}], "model": "a", "tail": image}).encode()
    assert with_model(body, read(body), "b") == body.replace(b'"model": "a"', b'"model": "b"')
