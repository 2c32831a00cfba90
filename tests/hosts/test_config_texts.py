"""One entry in a configuration file of others is put in, changed and taken out; every other character stays."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.cli.hosts import jsonc, tables
from aegis.cli.hosts.jsonc import Dialect, Fault
from aegis.core.errors import AegisError, ErrorKind

PLAIN, COMMENTS, ALL = Dialect(), Dialect(comments=True), Dialect(comments=True, trailing_commas=True)
ENTRY = {"command": "aegis", "args": ["mcp", "serve"]}
PATH = ("mcpServers", "aegis")

_TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=8,
)
_OBJECTS = st.dictionaries(_TEXTS.filter(lambda key: key != "mcpServers"), _VALUES, max_size=4)


@given(
    _OBJECTS, st.none() | st.dictionaries(_TEXTS, _VALUES, min_size=1, max_size=3), st.sampled_from([None, 1, 2, 4, "\t"]), st.booleans()
)
def test_in_and_out_again(document: dict[str, Any], servers: dict[str, Any] | None, indent: Any, windows: bool) -> None:
    """Whatever is in it and however it is written: the rest is the same value, and afterwards the same text."""
    if servers is not None:
        document = {**document, "mcpServers": {key: value for key, value in servers.items() if key != "aegis"} or {"other": 1}}
    text = json.dumps(document, indent=indent, ensure_ascii=False) + "\n"
    if windows:
        text = text.replace("\n", "\r\n")
    there = jsonc.put(text, PATH, ENTRY, PLAIN)
    assert json.loads(there) == {**document, "mcpServers": {**document.get("mcpServers", {}), "aegis": ENTRY}}
    assert jsonc.put(there, PATH, ENTRY, PLAIN) == there or indent in (None, "\t")
    assert ("\n" in there.replace("\r\n", "")) is not windows or "\n" not in there
    assert jsonc.drop(there, PATH, PLAIN) == text


COMMENTED = """\
// mine
{
  "a": [1, 2], // two
  /* the servers */
  "mcpServers": {
    "x": {"command": "x"} // keep
    // and this
  }
}
"""


def test_comments_stay() -> None:
    there = jsonc.put(COMMENTED, PATH, ENTRY, COMMENTS)
    assert jsonc.load(there, COMMENTS)["mcpServers"] == {"x": {"command": "x"}, "aegis": ENTRY}
    for comment in ("// mine", "// two", "/* the servers */", '"x": {"command": "x"}, // keep', "// and this"):
        assert comment in there
    assert jsonc.drop(there, PATH, COMMENTS) == COMMENTED


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        ('{\n  "a": 1,\n}\n', ALL),
        ('{\n  "mcpServers": {\n    "x": {}, // last\n  },\n}\n', ALL),
        ('{ "a": 1, }', ALL),
        ("{}", PLAIN),
        ('{"mcpServers": {"x": {}}, "b": {"mcpServers": {}}}', PLAIN),
        ('{"a": "// no comment /* nor this */", "b": "\\"}"}', PLAIN),
        ("{\n  // only words\n}\n", COMMENTS),
    ],
)
def test_odd_forms(text: str, dialect: Dialect) -> None:
    before = jsonc.load(text, dialect)
    there = jsonc.put(text, PATH, ENTRY, dialect)
    assert jsonc.load(there, dialect) == {**before, "mcpServers": {**before.get("mcpServers", {}), "aegis": ENTRY}}
    assert jsonc.load(jsonc.drop(there, PATH, dialect), dialect) == before
    if text != "{}":
        assert jsonc.drop(there, PATH, dialect) == text


def test_a_file_that_is_not_there_or_empty() -> None:
    there = jsonc.put("", PATH, ENTRY, PLAIN)
    assert json.loads(there) == {"mcpServers": {"aegis": ENTRY}}
    assert jsonc.drop(there, PATH, PLAIN) == "{}\n"
    assert jsonc.drop("", PATH, PLAIN) == ""
    assert jsonc.put("\ufeff", PATH, ENTRY, PLAIN).startswith("\ufeff")


@pytest.mark.parametrize(
    ("text", "place", "dialect"),
    [
        ('{"a": 1,}', "line 1, column 9", PLAIN),
        ('{"a": 1,}', "line 1, column 9", COMMENTS),
        ('{\n  // no\n  "a": 1\n}', "line 2, column 3", PLAIN),
        ('{"a": 1} {}', "line 1, column 10", ALL),
        ('{"a" 1}', "line 1, column 6", ALL),
        ('{"a": nan}', "line 1, column 7", ALL),
        ('{"a": 01}', "line 1, column 7", ALL),
        ('{"a": "x', "line 1, column", ALL),
        ('{"a": 1 /* x', "line 1, column 9", ALL),
        ('{"a": [1 2]}', "line 1, column 10", ALL),
        ("{'a': 1}", "line 1, column 2", ALL),
        ("[]", "line 1, column 1", ALL),
        ('{"a": 1', "line 1, column 8", ALL),
        ("{" + '"a": {' * 5000, "line 1, column", ALL),
    ],
)
def test_a_bad_file_is_told_with_its_place(text: str, place: str, dialect: Dialect) -> None:
    with pytest.raises(Fault, match=place):
        jsonc.load(text, dialect)


def test_something_else_in_the_way() -> None:
    with pytest.raises(Fault, match="line 1, column 16: there has to be an object"):
        jsonc.put('{"mcpServers": []}', PATH, ENTRY, PLAIN)


TOML = '# mine\nmodel = "m"\n\n[mcp_servers.x] # keep\ncommand = "x"\n\n# about tools\n[tools]\nweb = true\n'
TABLE = ("mcp_servers", "aegis")


@pytest.mark.parametrize("text", [TOML, "", "a = 1", TOML.replace("\n", "\r\n")])
def test_a_table_in_and_out_again(text: str) -> None:
    there = tables.put(text, TABLE, {**ENTRY, "env": {"A": 'b"\\'}})
    before = tomllib.loads(text)
    servers = {**before.get("mcp_servers", {}), "aegis": {**ENTRY, "env": {"A": 'b"\\'}}}
    assert tomllib.loads(there) == {**before, "mcp_servers": servers}
    assert there.startswith(text)
    assert tables.put(there, TABLE, ENTRY) == there
    gone = tables.drop(there, TABLE)
    assert gone == (text if text.endswith("\n") or not text else text + "\n")
    assert tables.drop(gone, TABLE) == gone


def test_a_table_is_changed_by_lines_and_left_with_what_it_has_besides() -> None:
    text = TOML.replace("[mcp_servers.x] # keep", "[mcp_servers.aegis] # keep") + "[mcp_servers.aegis.tools.a]\nb = 1\n"
    there = tables.put(text, TABLE, ENTRY)
    assert '[mcp_servers.aegis] # keep\nargs = ["mcp", "serve"]\ncommand = "aegis"\n' in there
    assert tomllib.loads(there)["mcp_servers"]["aegis"] == {**ENTRY, "tools": {"a": {"b": 1}}}
    assert tables.drop(there, TABLE) == '# mine\nmodel = "m"\n\n# about tools\n[tools]\nweb = true\n'


@pytest.mark.parametrize(
    "text", ['mcp_servers = { aegis = { command = "x" } }\n', 'mcp_servers.aegis.command = "x"\n', "mcp_servers = 1\n"]
)
def test_a_table_in_another_form_is_left_alone(text: str) -> None:
    with pytest.raises(AegisError) as refused:
        tables.put(text, TABLE, ENTRY)
    assert refused.value.kind is ErrorKind.USAGE


def test_what_only_looks_like_the_table_is_not_touched() -> None:
    there = tables.put('x = """\n[mcp_servers.aegis]\n"""\n', TABLE, ENTRY)
    with pytest.raises(AegisError) as refused:
        tables.drop(there, TABLE)
    assert refused.value.kind is ErrorKind.USAGE
