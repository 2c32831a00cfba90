"""What a child may have, whatever is asked for: in nothing more than its parent. Pure, so thousands of pairs are tried."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis.core.egress import EgressRule
from aegis.drivers import AgentLimits, McpServer
from aegis.sandboxes import Limits
from aegis.services.agents.model import Launch, MountRule, SpawnRights
from aegis.services.agents.narrowing import BOUNDS, holder, narrow
from aegis.services.egress.paths import read_path
from aegis.services.egress.places import read_place
from aegis.services.egress.rules import Rules

STRENGTH = {"process": 0, "bwrap": 50}
PERMISSIONS = ["read", "write", "full"]
PATHS = [
    "/w",
    "/w/a",
    "/w/a/b",
    "/w/.git",
    "/w/.git/hooks",
    "/w/a/.aegis",
    "/wx",
    "/d",
    "/d/e",
    "/d/.git",
    "/",
    "/etc",
    "/w/../etc",
    "/w/a/..",
]
RULES = [
    "packages", "a.example:443", "a.example:80,443", "b.example", "*.example.com:443", "x.example.com:443", "*.x.example.com:443",
    "example.com:443", "10.0.0.0/8:5432", "10.1.0.0/16:5432", "10.1.2.3:5432", "tcp://a.example:443", "tcp://10.1.2.3:5432", "[fd00::/16]:1",
    *(EgressRule(host=host, inspect=True, methods=methods, paths=paths)
      for host in ("a.example:443", "*.example.com:443", "x.example.com:443", "10.1.2.3:5432")
      for methods in (("GET",), ("GET", "POST"))
      for paths in (("/*",), ("/v1/*",), ("/v1/a", "/x/*/z"))),
    EgressRule(host="a.example:443", inspect=True, methods=("GET",), paths=("/v1/*",), secret="A", header="X: {}"),
    EgressRule(host="a.example:443", inspect=True, methods=("GET",), paths=("/*",), secret="B"),
]  # fmt: skip
SERVERS = [McpServer(name="a", command=["a"]), McpServer(name="a", command=["b"]), McpServer(name="b", url="http://127.0.0.1:1/")]
NAMES = ["A", "B", "C"]


def some(of: list[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(of), max_size=4, unique_by=repr)


def limits(least: int = 0) -> st.SearchStrategy[Limits]:
    number = st.none() | st.integers(least, 2**32)
    return st.builds(
        Limits,
        memory_bytes=number,
        cpus=st.none() | st.floats(least, 64, allow_nan=False),
        pids=st.none() | st.integers(least, 5000),
        required=st.booleans(),
    )


mounts = st.lists(st.builds(MountRule, st.sampled_from(PATHS), st.sampled_from(["/data", "/x"]), st.booleans()), max_size=3)
launches = st.builds(
    Launch,
    agent=st.just("a"),
    driver=st.sampled_from(["native", None]),
    permission=st.sampled_from(PERMISSIONS),
    approvals=st.sampled_from(["auto", "ask"]),
    mode=st.none() | st.just("plan"),
    auth=st.sampled_from(["broker", "login"]),
    egress=some(RULES),
    mcp=some(SERVERS),
    tools=st.lists(st.sampled_from(["core", "children"]), unique=True).map(tuple),
    security=st.lists(st.sampled_from(["strict", "wide"]), unique=True).map(tuple),
    record=st.none() | st.just("/tape"),
    replay=st.none() | st.just("/old"),
    sandbox=st.sampled_from(list(STRENGTH)),
    workspace=st.none() | st.sampled_from(PATHS),
    mounts=mounts,
    secrets=some(NAMES),
    exposed=some(NAMES),
    env=st.dictionaries(st.sampled_from(["A", "AEGIS_TOKEN", "AEGIS_"]), st.just("x")),
    limits=limits(),
    turn=st.builds(AgentLimits, rounds=st.integers(1, 100), max_tokens=st.integers(1, 100)),
    project=st.none() | st.sampled_from(["/p", "/q"]),
    spawn=st.builds(SpawnRights, *[st.integers(0, 9)] * 3),
)


def at_most(one: float | None, other: float | None) -> bool:
    return other is None or (one is not None and one <= other)


@settings(max_examples=150, deadline=None)
@given(parent=launches, wanted=launches, free=st.none() | limits())
def test_nothing_in_a_child_exceeds_its_parent(parent: Launch, wanted: Launch, free: Limits | None) -> None:
    child, cuts = narrow(parent, wanted, strength=STRENGTH, free=free)
    assert set(child.security) == {*parent.security, *wanted.security}  # bound by all of it
    assert PERMISSIONS.index(child.permission) <= PERMISSIONS.index(parent.permission)
    assert child.approvals == "ask" or parent.approvals == "auto"
    assert STRENGTH[child.sandbox] >= STRENGTH[parent.sandbox]
    assert (child.auth, child.project) == ("broker", parent.project)
    assert set(child.secrets) <= set(parent.secrets)
    assert set(child.exposed) <= set(parent.exposed) & set(child.secrets)
    assert all(server in parent.mcp for server in child.mcp)
    assert set(child.tools) <= set(parent.tools)
    assert not [name for name in child.env if name.startswith("AEGIS_")]
    assert {child.record, child.replay} <= {parent.record, parent.replay, None}
    assert child.driver is None or child.replay == parent.replay, "what is replayed does not become a call that costs"
    assert child.spawn.depth < parent.spawn.depth or child.spawn.depth == 0
    assert child.spawn.children <= parent.spawn.children
    assert child.spawn.total <= parent.spawn.total
    for field in BOUNDS.values():
        assert at_most(getattr(child.limits, field), getattr(parent.limits, field)), field
        assert free is None or at_most(getattr(child.limits, field), getattr(free, field)), field
    assert all(getattr(child.turn, f) <= getattr(parent.turn, f) for f in AgentLimits.__struct_fields__)
    if child.egress:
        assert (child.permission, parent.permission) == ("full", "full")
    if child.workspace is not None and child.workspace != parent.workspace:
        place = holder(parent, child.workspace)
        assert place is not None
        assert place.writable or child.permission == "read"
        assert ".." not in PurePosixPath(child.workspace).parts
    for mount in child.mounts:
        place = holder(parent, mount.source, writable=mount.writable, mount=mount.writable)
        assert place is not None
        if mount.writable:
            assert not place.workspace, "past the files that are kept from an agent in its workspace"
            assert child.permission == parent.permission == "full"
    assert narrow(parent, child, strength=STRENGTH, free=free).launch.egress == child.egress
    assert set(cuts) <= {
        "permission", "approvals", "sandbox", "workspace", "egress", "mounts", "secrets", "exposed secrets", "auth", "mcp", *BOUNDS
    }  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    has=some(RULES), rule=st.sampled_from(RULES),
    host=st.sampled_from(["a.example", "b.example", "example.com", "x.example.com", "y.x.example.com", "10.1.2.3", "10.200.0.1", "[fd00::1]"]),
    port=st.sampled_from([1, 80, 443, 5432]),
)  # fmt: skip
def test_what_a_covered_rule_admits_the_rules_admit(has: list[Any], rule: Any, host: str, port: int) -> None:
    """The comparison of rules against what they do: no place is let through by a rule that is covered and not by those that cover it."""
    rules, one = Rules(has), Rules([rule])
    if not rules.cover(rule):
        return
    place = read_place(f"{host}:{port}")
    if (found := one.find(place)) is not None:
        by = rules.find(place)
        assert by is not None
        assert by.raw or not found.raw
    assert rules.packages or not one.packages


def may(rules: list[str | EgressRule], host: str, method: str, path: str) -> bool:
    """Whether a request passes by these rules."""
    has, place = Rules(rules), read_place(host)
    rule = has.find(place)
    looking = has.inspecting(place)
    return rule is not None and (not looking or any(r.inspect is not None and r.inspect.allows(method, read_path(path)) for r in looking))


@settings(max_examples=300, deadline=None)
@given(
    has=some(RULES), wants=some(RULES), secrets=some(NAMES),
    host=st.sampled_from(["a.example:443", "x.example.com:443", "y.x.example.com:443", "b.example.com:443", "10.1.2.3:5432"]),
    method=st.sampled_from(["GET", "POST", "DELETE"]),
    path=st.sampled_from(["/", "/v1", "/v1/a", "/v1/b", "/x/y/z", "/v1/../x"]),
)  # fmt: skip
def test_no_request_of_a_child_is_more_than_its_parents(
    has: list[Any], wants: list[Any], secrets: list[str], host: str, method: str, path: str
) -> None:
    parent = Launch(agent="a", sandbox="bwrap", permission="full", egress=has, secrets=secrets)
    wanted = Launch(agent="a", sandbox="bwrap", permission="full", egress=wants, secrets=NAMES)
    child = narrow(parent, wanted, strength=STRENGTH).launch
    assert not may(child.egress, host, method, path) or may(has, host, method, path)
    for rule in child.egress:
        if isinstance(rule, EgressRule) and rule.secret is not None:
            same = [mine for mine in has if isinstance(mine, EgressRule) and mine.secret == rule.secret]
            assert rule.secret in secrets
            assert rule.header in (None, *(mine.header for mine in same))


def test_a_child_asks_for_a_host_that_is_looked_at_by_its_name() -> None:
    rule = EgressRule(host="x.example.com:443", inspect=True, methods=("GET",), paths=("/v1/*",), secret="A", header="X: {}")
    parent = Launch(agent="a", sandbox="bwrap", permission="full", egress=["*.example.com:443", rule], secrets=["A"])
    wanted = Launch(agent="a", sandbox="bwrap", permission="full", egress=["x.example.com:443"], secrets=["A"])
    assert narrow(parent, wanted, strength=STRENGTH) == (msgspec.structs.replace(wanted, egress=[rule], spawn=SpawnRights(1)), {})
    without = narrow(parent, msgspec.structs.replace(wanted, secrets=[]), strength=STRENGTH).launch.egress
    assert without == [msgspec.structs.replace(rule, secret=None, header=None)]
    assert narrow(parent, msgspec.structs.replace(wanted, egress=["*.example.com:443"]), strength=STRENGTH).cuts.keys() == {"egress"}


@pytest.mark.parametrize("empty", [[], ["packages"]])
def test_an_empty_list_never_means_all(empty: list[str]) -> None:
    assert not Rules(empty).cover("a.example:443")
    parent = Launch(agent="a", sandbox="bwrap", permission="full", egress=empty)
    wanted = Launch(agent="a", sandbox="bwrap", permission="full", egress=["a.example:443"], secrets=["A"], exposed=["A"], mcp=SERVERS)
    child = narrow(parent, wanted, strength=STRENGTH).launch
    assert (child.egress, child.secrets, child.exposed, child.mcp) == ([], [], [], [])


def test_a_limit_of_zero_is_left_to_nobody() -> None:
    parent = Launch(agent="a", sandbox="bwrap", limits=Limits(memory_bytes=2**30))
    child = narrow(parent, Launch(agent="a", sandbox="bwrap"), strength=STRENGTH, free=Limits(memory_bytes=0)).launch
    assert child.limits.memory_bytes == 0
