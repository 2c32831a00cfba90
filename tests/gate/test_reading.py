"""Rules that are wrong are refused at the place where they are, with what was meant; nothing of them reaches the engine's parser."""

from __future__ import annotations

import pytest

from aegis.core.errors import AegisError, ErrorKind
from aegis.services.gate import rules
from aegis.services.gate.reading import MAX_BYTES, statements

HEAD = 'principal is Instance, action == Action::"tool.call", resource'


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("permit(", "f.cedar:1:1", "does not end"),
        ("permit(principal, action, resource)", "f.cedar:1:1", "does not end"),
        ("\n\n allow(principal, action, resource);", "f.cedar:3:2", "`permit` or `forbid`"),
        ('permit(principal is Instance, action == Action::"tool.cal", resource);', "f.cedar:1:49", "no action `tool.cal`"),
        (f'permit({HEAD})\nwhen {{ principal.agnt == "x" }};', "f.cedar:2:18", "no attribute `agnt`"),
        ("permit(principal is Instence, action, resource);", "f.cedar:1:21", "no entity type `Instence`"),
        (f'permit({HEAD}) when {{ context.path == "x" }};', "f.cedar:1:87", "not every call has `context.path`"),
        ("permit(principal\naction, resource);", "f.cedar:2:1", "unexpected token `action`"),
        ('@aks("why") forbid(principal, action, resource);', "f.cedar:1:2", "no annotation `aks`"),
        ("@ask forbid(principal, action, resource);", "f.cedar:1:2", "without a text"),
        ('@ask("") forbid(principal, action, resource);', "f.cedar:1:2", "empty text"),
        ('@id("a") @id("b") permit(principal, action, resource);', "f.cedar:1:11", "twice"),
        ('@ask("w") permit(principal, action, resource);', "f.cedar:1:1", "`@ask` on a `permit`"),
        ('@rate("1/1s") forbid(principal, action, resource);', "f.cedar:1:1", "on a `forbid`"),
        (f'@rate("fast") permit({HEAD});', "f.cedar:1:1", "not a rate"),
        (f'@max_result("big") permit({HEAD});', "f.cedar:1:1", "not a size"),
        ('@concurrent("2") permit(principal, action, resource);', "f.cedar:1:1", "calls of tools alone"),
        ('@id("aegis.owner") permit(principal, action, resource);', "f.cedar:1:1", "built in"),
        ("permit(principal == ?principal, action, resource);", "f.cedar:1:1", "a template"),
        ('@id("a") permit(principal, action, resource);\n@id("a") permit(principal, action, resource);', "f.cedar:2:1", "is there twice"),
        ("permit(principal, action, resource)) ;", "f.cedar:1:36", "closes nothing"),
        ('permit(principal, action, resource) when { "a };', "f.cedar:1:44", "does not end"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(text: str, place: str, said: str) -> None:
    with pytest.raises(AegisError) as caught:
        rules.read(text, "f.cedar", "home")
    assert caught.value.kind is ErrorKind.USAGE
    assert caught.value.message.startswith(f"{place}: "), caught.value.message
    assert said in caught.value.message


def test_the_nearest_name_is_told() -> None:
    with pytest.raises(AegisError) as caught:
        rules.read('permit(principal is Instance, action == Action::"tool.cal", resource);', "f.cedar", "home")
    assert "tool.call" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "permit(princip\u0430l, action, resource);",  # a Cyrillic letter where a word should stand
        f'forbid({HEAD}) when {{ principal.agent == "\u0441oder" }};',  # mixed with Latin ones
        f'forbid({HEAD}) when {{ principal.agent == "\u0441\u043e\u0440" }};',  # a whole word that only looks like one
        'forbid(principal == Instance::"\u0441\u043e\u0440", action, resource);',
        f'forbid({HEAD}) when {{ principal.agent == "\\u{{441}}oder" }};',  # written as an escape
        '@id("no\u200bpush") forbid(principal, action, resource);',
        '@id("a\\nb") forbid(principal, action, resource);',
        'forbid(principal == Instance::"a\\nb", action, resource);',
        f'@ask("ok\u202e") forbid({HEAD});',
        f"// \u202e turned around\nforbid({HEAD});",
        f"forbid({HEAD});\x00",
        "forbid(principal, action, resource);\x1b[2J",
    ],
)
def test_what_only_looks_like_a_name_is_refused(text: str) -> None:
    with pytest.raises(AegisError) as caught:
        rules.read(text, "f.cedar", "home")
    assert caught.value.kind is ErrorKind.USAGE
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "body",
    [
        "(" * 20_000 + "true" + ")" * 20_000, "true && " * 20_000 + "true", "true || " * 20_000 + "true", "[" * 20_000 + "]" * 20_000,
        "1 + " * 20_000 + "1 == 1", "if true then true else " * 20_000 + "true", "!" * 20_000 + "true", "context" + ".a" * 20_000,
        "- " * 20_000 + "1 == 1", "principal is Instance in " * 5000 + "principal", '{"a": ' * 5000 + "1" + "}" * 5000,
    ],
)  # fmt: skip
def test_nesting_that_would_end_the_process_is_refused(body: str) -> None:
    with pytest.raises(AegisError, match=r"deep|operators|bytes"):
        rules.read(f"permit({HEAD}) when {{ {body} }};", "f.cedar", "home")


def test_a_rule_at_the_bounds_is_read() -> None:
    body = " || ".join(["context.opaque"] * 85)
    assert rules.read(f"permit({HEAD}) when {{ context has opaque && ({body}) }};", "f.cedar", "home")
    assert rules.read(f"permit({HEAD}) when {{ {'(' * 38}true{')' * 38} }};", "f.cedar", "home")


def test_a_large_text_and_bytes_are_refused() -> None:
    with pytest.raises(AegisError) as caught:
        rules.decoded(b"/" * (MAX_BYTES + 1), "f.cedar")
    assert caught.value.kind is ErrorKind.TOO_LARGE
    with pytest.raises(AegisError, match="not UTF-8 at byte 1"):
        rules.decoded(b"a\xff", "f.cedar")


@pytest.mark.parametrize(
    ("text", "only"),
    [
        (f'permit({HEAD}) when {{ principal.agent == "coder" }};', ("agent", "coder")),
        (f'permit({HEAD}) when {{ "coder" == principal.agent && true }};', ("agent", "coder")),
        (f'permit({HEAD}) when {{ true && principal.handle == "a" }};', ("handle", "a")),
        (f'permit({HEAD}) when {{ true }} when {{ principal.project == "/p" }};', ("project", "/p")),
        ('permit(principal == Instance::"a", action, resource);', ("handle", "a")),
        ('permit(principal, action, resource == Tool::"a.b");', ("resource", "Tool", "a.b")),
        (f'permit({HEAD}) when {{ principal.agent == "coder" || true }};', None),
        (f'permit({HEAD}) when {{ !(principal.agent == "coder") }};', None),
        (f'permit({HEAD}) when {{ principal.agent != "coder" }};', None),
        (f'permit({HEAD}) unless {{ principal.agent == "coder" }};', None),
        (f'permit({HEAD}) when {{ if true then false else principal.agent == "coder" }};', None),
        (f'permit({HEAD}) when {{ (principal.agent == "coder" || true) && true }};', None),
    ],
)
def test_what_a_rule_is_about_is_read_only_where_it_always_holds(text: str, only: object) -> None:
    assert statements(text, "f")[0].only == only


def test_what_is_built_in_can_be_read() -> None:
    assert [rule.id for rule in rules.built_in()][:2] == ["aegis.owner", "aegis.daemon"]
    assert all(rule.effect == "permit" for rule in rules.built_in())
