"""How rules on requests are written on the command line, and shown."""

from __future__ import annotations

import click
import pytest

from aegis.cli.options import EgressType
from aegis.cli.render import rule


def test_a_rule_is_text_or_json() -> None:
    read = EgressType().convert
    assert read("api.example.com:443", None, None) == "api.example.com:443"
    assert read('{"host": "a.example", "inspect": true}', None, None) == {"host": "a.example", "inspect": True}
    for wrong in ("{host: a.example}", "{", "{" * 100_000):
        with pytest.raises(click.UsageError, match="not JSON"):
            read(wrong, None, None)


def test_a_rule_for_people() -> None:
    assert rule("a.example:443") == "a.example:443"
    told = rule({"host": "a.example:443", "inspect": True, "methods": ["GET"], "paths": ["/v1/*"], "secret": "KEY", "header": "X: {}"})
    assert told == "a.example:443 (inspected; GET; /v1/*; with the secret KEY as `X: {}`)"
