"""The key `egress`: rules on requests are read strictly, and what is wrong with one is said with its place."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from aegis.core.egress import EgressRule
from aegis.core.errors import AegisError, ErrorKind
from aegis.services.agents.model import Launch
from aegis.services.config import Config

GOOD = 'host: "a.example:443", inspect: true'


def test_a_rule_on_requests(config: Config, home: Path) -> None:
    (home / "config.yaml").write_text(
        f"""
agents:
  a:
    permission: full
    egress:
      - b.example:443
      - {{{GOOD}, methods: [GET, POST], paths: ["/v1/*"], secret: KEY, header: "Authorization: Bearer {{}}", roots: /etc/own.pem}}
"""
    )
    rule = EgressRule(
        host="a.example:443",
        inspect=True,
        methods=("GET", "POST"),
        paths=("/v1/*",),
        secret="KEY",
        header="Authorization: Bearer {}",
        roots="/etc/own.pem",
    )
    assert config.load(None).agents["a"].egress == ["b.example:443", rule]
    assert str(rule) == "a.example:443 (inspected; GET, POST; /v1/*; with the secret KEY as `Authorization: Bearer {}`)"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("egress: {host: a.example}", "a list"),
        ("egress: [{}]", "without `host`"),
        ("egress: [{host: a.example}]", "inspect: true"),
        ("egress: [{host: a.example, inspect: yes, methods: [GET], paths: [/]}]", "`true` or `false`"),
        (f"egress: [{{{GOOD}, method: [GET]}}]", "unknown key `method`"),
        (f"egress: [{{{GOOD}, paths: [/v1/*]}}]", "`methods`"),
        (f"egress: [{{{GOOD}, methods: [GET]}}]", "`paths`"),
        (f"egress: [{{{GOOD}, methods: [GET], paths: null}}]", "a list of paths"),
        (f"egress: [{{{GOOD}, methods: [GET], paths: []}}]", "a list of paths"),
        (f"egress: [{{{GOOD}, methods: [GET], paths: ['']}}]", "a list of paths"),
        (f"egress: [{{{GOOD}, methods: [GET], paths: ['*']}}]", "does not begin with `/`"),
        (f"egress: [{{{GOOD}, methods: [GET], paths: [' *']}}]", "does not begin with `/`"),
        (f"egress: [{{{GOOD}, methods: [GET], paths: '/*'}}]", "a list of paths"),
        (f"egress: [{{{GOOD}, methods: [GET], paths: [/v1/../x]}}]", "read in two ways"),
        (f"egress: [{{{GOOD}, methods: ['*'], paths: ['/*']}}]", "one by one"),
        (f"egress: [{{{GOOD}, methods: [get], paths: ['/*']}}]", "in capitals"),
        (f"egress: [{{{GOOD}, methods: [CONNECT], paths: ['/*']}}]", "not a method"),
        (f"egress: [{{{GOOD}, methods: [GET], paths: ['/*'], header: 'X: {{}}'}}]", "without the `secret`"),
        (f"egress: [{{{GOOD}, methods: [GET], paths: ['/*'], secret: A, header: 'X'}}]", "not a header"),
        (f"egress: [{{{GOOD}, methods: [GET], paths: ['/*'], secret: 'a b'}}]", "cannot name a secret"),
        (f"egress: [{{{GOOD}, methods: [GET], paths: ['/*'], roots: own.pem}}]", "absolute path"),
        ("egress: [{host: '*.a.example', inspect: true, methods: [GET], paths: ['/*'], secret: A}]", "one host"),
        ("egress: [{host: 'tcp://a.example', inspect: true, methods: [GET], paths: ['/*']}]", "cannot be looked at"),
        ("egress: [{host: '10.0.0.0/8:443', inspect: true, methods: [GET], paths: ['/*']}]", "a network"),
    ],
)
def test_what_cannot_be_is_named_with_its_place(config: Config, home: Path, text: str, says: str) -> None:
    (home / "config.yaml").write_text(f"agents:\n  a:\n    {text}\n")
    with pytest.raises(AegisError) as caught:
        config.load(None)
    assert caught.value.kind is ErrorKind.USAGE
    assert caught.value.data["place"].startswith(f"{home}/config.yaml:3:")
    assert says in caught.value.message


def test_launches_of_before_are_read() -> None:
    old = b'{"agent":"a","sandbox":"bwrap","permission":"full","egress":["a.example:443","packages"]}'
    assert msgspec.json.decode(old, type=Launch).egress == ["a.example:443", "packages"]
    rule = EgressRule(host="a.example:443", inspect=True, methods=("GET",), paths=("/v1/*",))
    launch = Launch(agent="a", sandbox="bwrap", egress=["b.example:443", rule])
    assert msgspec.json.decode(msgspec.json.encode(launch), type=Launch) == launch
