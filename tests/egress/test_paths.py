"""Paths of requests and the patterns of rules: no spelling of a path is judged as another than the one that a server makes of it."""

from __future__ import annotations

import pytest

from aegis.services.egress.paths import read_path, read_pattern
from aegis.services.egress.places import Malformed


def allowed(pattern: str, target: str) -> bool:
    read = read_path(target)
    return read.problem is None and all(read_pattern(pattern).matches(path) for path in read.paths)


@pytest.mark.parametrize(
    ("pattern", "target"),
    [
        ("/v1/models", "/v1/models"),
        ("/v1/models", "/v1/models?page=2&up=../../admin"),
        ("/v1/models", "/v1/%6dodels"),
        ("/v1/*", "/v1/a"),
        ("/v1/*", "/v1/a/b/c"),
        ("/v1/*", "/v1/"),
        ("/v1/*", "/v1/caf%C3%A9"),
        ("/v1/*", "/v1/caf%c3%a9%20au%20lait"),
        ("/v1/*", "/v1/group%2Fproject"),
        ("/v1/*", "/v1/100%25"),
        ("/v1/*", "/v1/x;v=1"),
        ("/*", "/"),
        ("/*", "/.well-known/x"),
        ("/*", "/a..b/...c"),
        ("/repos/*/issues", "/repos/aegis/issues"),
        ("/@scope/*", "/@scope/name"),
    ],
)
def test_what_a_pattern_allows(pattern: str, target: str) -> None:
    assert allowed(pattern, target)


@pytest.mark.parametrize(
    ("pattern", "target"),
    [
        ("/v1/models", "/v1/models/"),
        ("/v1/models", "/V1/models"),
        ("/v1/models", "/v1/models2"),
        ("/v1/*", "/v1"),
        ("/v1/*", "/v12/a"),
        ("/v1/*", "/"),
        ("/v1/*", "v1/a"),
        ("/v1/*", "*"),
        ("/repos/*/issues", "/repos/a/b/issues"),
        ("/repos/*/issues", "/repos/a%2Fb/issues"),
        ("/repos/*", "/admin;/repos/x"),
    ],
)
def test_what_it_does_not(pattern: str, target: str) -> None:
    assert not allowed(pattern, target)


TRICKS = """
/v1/../admin /v1/./a /v1/a/.. /v1/.. /v1/%2e%2e/admin /v1/%2E%2e/admin /v1/.%2e/admin /v1/%2e/a /v1/..%2fadmin /v1/%2e%2e%2fadmin
/v1/a%2f..%2f..%2fadmin /v1//admin //v1/a /v1/a//b /v1/%2fadmin /v1/a%2f%2fb /v1/..;/admin /v1/..;x=1/admin /v1/;/admin /v1/.;/a
/v1/%2e%2e;/admin /v1/..%3b/admin /v1\\..\\admin /v1/..\\admin /v1/%5c..%5cadmin /v1/%252e%252e/admin /v1/%252e%252e%252fadmin
/v1/..%252fadmin /v1/%25252e%25252e/admin /v1/%255c..%255cadmin /v1/a%00b /v1/a%0d%0ab /v1/a%09 /v1/%zz /v1/% /v1/%u002e%u002e/admin
/v1/%c0%ae%c0%ae/admin /v1/%ff /v1/a#b /v1/%2500 /v1/%252525252525252e
""".split()


@pytest.mark.parametrize("target", TRICKS)
def test_a_path_that_may_be_another_is_no_path(target: str) -> None:
    read = read_path(target)
    assert read.problem is not None
    assert not allowed("/*", target)


def test_a_path_has_all_its_readings() -> None:
    assert read_path("/a%2Fb;c").paths == ("/a%2Fb;c", "/a/b;c", "/a/b") or "/a/b" in read_path("/a%2Fb;c").paths
    assert "/admin" in read_path("/v1/../admin").paths
    assert "/admin" in read_path("/v1/%252e%252e/admin").paths
    assert read_path("/plain/path").paths == ("/plain/path",)


@pytest.mark.parametrize(
    "text",
    ["", " ", "*", " *", "v1", "/v1/*x", "/v1/../a", "/v1//a", "/v1/%2e%2e/a", "/a%2Fb", "/a?b", "/a#b", "/caf\u00e9", "/a;b", "/v1/./*"],
)
def test_a_pattern_that_may_be_another_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        read_pattern(text)


@pytest.mark.parametrize(
    ("wide", "narrow", "covers"),
    [
        ("/*", "/v1/*", True),
        ("/v1/*", "/v1/a", True),
        ("/v1/*", "/v1/a/*", True),
        ("/v1/*", "/v1/*", True),
        ("/repos/*/issues", "/repos/a/issues", True),
        ("/v1/*", "/v1", False),
        ("/v1/*", "/*", False),
        ("/v1/a", "/v1/*", False),
        ("/repos/a/issues", "/repos/*/issues", False),
        ("/repos/*/issues", "/repos/*", False),
        ("/a/*/c", "/a/*", False),
        ("/a/*", "/a/*/c", True),
    ],
)
def test_which_pattern_covers_which(wide: str, narrow: str, covers: bool) -> None:
    assert read_pattern(wide).covers(read_pattern(narrow)) is covers
