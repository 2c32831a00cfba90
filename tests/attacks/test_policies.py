"""Rules as a weapon: files that explode, loops, look-alikes, forged names, rules that a repository brings along; all through the daemon."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.attacks.conftest import Box
from tests.conftest import RealDaemon

from aegis.core.errors import AegisError, ErrorKind

CALL = 'principal is Instance, action == Action::"tool.call", resource'
MODEL = 'principal is Instance, action == Action::"model.call", resource'
#: In force in all tests of this file.
GOOD = f'@id("good") forbid({CALL} == Tool::"never.this");\n'


@pytest.fixture
def folder(house: RealDaemon) -> Iterator[Path]:
    """The folder of the home's rules, with a good one in force; what a test puts there is taken away after it."""
    place = house.home / "policies"
    if place.is_symlink():
        place.unlink()
    place.mkdir(exist_ok=True)
    (place / "good.cedar").write_text(GOOD)
    assert problems(house) == []
    yield place
    if place.is_symlink():
        target = place.resolve()
        place.unlink()
        target.rename(place)
    for each in place.iterdir():
        each.unlink()


def problems(house: RealDaemon) -> list[dict[str, Any]]:
    return list(house.client.policies.list()["problems"])


def in_force(house: RealDaemon) -> set[str]:
    return {rule["id"] for rule in house.client.policies.list()["policies"] if not rule["built_in"]}


BAD: dict[str, Callable[[Path], object]] = {
    "a syntax error": lambda f: (f / "a.cedar").write_text("forbid(principal"),
    "an unknown action": lambda f: (f / "a.cedar").write_text('forbid(principal, action == Action::"tool.cal", resource);'),
    "10 MB": lambda f: (f / "a.cedar").write_bytes(b"// " + b"a" * 10_000_000),
    "many large files": lambda f: [(f / f"a{n}.cedar").write_bytes(b"//" + b"a" * 900_000) for n in range(6)],
    "deep brackets": lambda f: (f / "a.cedar").write_text(f"forbid({CALL}) when {{ {'(' * 100_000}true{')' * 100_000} }};"),
    "a long chain": lambda f: (f / "a.cedar").write_text(f"forbid({CALL}) when {{ {'true && ' * 50_000}true }};"),
    "a link": lambda f: (f / "a.cedar").symlink_to("/etc/passwd"),
    "a loop": lambda f: (f / "a.cedar").symlink_to(f / "a.cedar"),
    "a folder in itself": lambda f: (f / "a").symlink_to(f),
    "a pipe": lambda f: os.mkfifo(f / "a.cedar"),
    "a newline in a file's name": lambda f: (f / "a\nb.cedar").write_text(GOOD),
    "a look-alike in a file's name": lambda f: (f / "g\u043e\u043ed.cedar").write_text(GOOD),
    "a newline in a rule's name": lambda f: (f / "a.cedar").write_text('@id("a\\nallow") forbid(principal, action, resource);'),
    "a look-alike in a rule's name": lambda f: (f / "a.cedar").write_text('@id("g\u043e\u043ed") forbid(principal, action, resource);'),
    "a look-alike of an agent": lambda f: (f / "a.cedar").write_text(f'forbid({CALL}) when {{ principal.agent == "\u0430gent" }};'),
    "a forged name of what is built in": lambda f: (f / "a.cedar").write_text('@id("aegis.owner") forbid(principal, action, resource);'),
    "a second rule of the name": lambda f: (f / "a.cedar").write_text(GOOD),
    "a turned text": lambda f: (f / "a.cedar").write_text(f'@ask("ok \u202eon") forbid({CALL});'),
    "an escape sequence": lambda f: (f / "a.cedar").write_text(f"forbid({CALL}) when {{ \x1b]0;x\x07 }};"),
    "laughs": lambda f: (f / "a.yaml").write_text("a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\n" + "c: [*b]\n" * 2),
    "a context of another kind": lambda f: (f / "a.yaml").write_text("apiVersion: aegis/v1\nkind: Workflow\n"),
    "bytes": lambda f: (f / "a.cedar").write_bytes(os.urandom(4096)),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_files_change_nothing_and_are_told(house: RealDaemon, folder: Path, what: str) -> None:
    BAD[what](folder)
    told = problems(house)
    assert told, what
    assert told[0]["kept"]
    assert told[0]["problem"].isprintable()
    assert len(told[0]["problem"]) < 1000
    assert in_force(house) == {"good"}


def test_doctor_says_so(house: RealDaemon, folder: Path) -> None:
    BAD["a syntax error"](folder)
    check = next(check for check in house.client.doctor()["checks"] if check["name"] == "policies")
    assert (check["ok"], "a.cedar:1:1" in check["detail"]) == (False, True)


@pytest.mark.parametrize("what", ["deep brackets", "10 MB", "an escape sequence"])
def test_a_draft_is_bounded_as_files_are(house: RealDaemon, what: str, tmp_path: Path) -> None:
    BAD[what](tmp_path)
    text = (tmp_path / "a.cedar").read_text()
    for ask in (lambda: house.client.policies.check(text, "a.cedar"), lambda: house.client.policies.simulate(0.0, text)):
        with pytest.raises(AegisError) as caught:
            ask()
        assert caught.value.kind in (ErrorKind.USAGE, ErrorKind.TOO_LARGE)


def test_names_that_are_forged_match_nobody(house: RealDaemon, folder: Path, box: Callable[..., Box]) -> None:
    made = box("smith")
    (folder / "a.cedar").write_text(f'@id("smith") forbid({MODEL}) when {{ principal.handle == "smith" }};')
    assert problems(house) == []
    explain = house.client.policies.explain
    question = {"action": "model.call", "resource": "scripted/echo"}
    assert explain({"principal": "smith", **question})["policies"] == ["smith"]
    for forged in ("smith\n", "sm\u0456th", "SMITH", "smith\0", "smith'", 'smith"', "smith ", "*", "Instance::smith"):
        with pytest.raises(AegisError) as caught:
            explain({"principal": forged, **question})
        assert caught.value.kind in (ErrorKind.NOT_FOUND, ErrorKind.USAGE), forged
    for handle in ("sm\u0456th", "smi\nth", "smith\u200b"):
        with pytest.raises(AegisError) as caught:
            house.start(handle)
        assert caught.value.kind is ErrorKind.USAGE, handle
    assert made.ask("[[say hi]]")["outcome"] != "completed"


def test_a_rule_stops_an_agent_at_once_and_a_bad_one_does_not_free_it(house: RealDaemon, folder: Path, box: Callable[..., Box]) -> None:
    made = box("quick")
    assert made.ask("[[say hi]]")["outcome"] == "completed"
    (folder / "stop.cedar").write_text(f'@id("stop") @reason("not today") forbid({MODEL}) when {{ principal.handle == "quick" }};')
    assert problems(house) == []
    stopped = made.ask("[[say hi]]")
    assert stopped["outcome"] != "completed"
    (folder / "stop.cedar").write_text("forbid(")
    assert problems(house)
    assert made.ask("[[say hi]]")["outcome"] != "completed"
    rows = house.client.audit(0, 1000)
    denied = [row for row in rows if row["action"] == "model.call" and row["decision"] == "deny"]
    assert denied
    assert denied[-1]["reason"] == "not today (the rule `stop`)"
    assert denied[-1]["policies"] == ["stop"]


def test_an_agent_cannot_reach_the_rules(house: RealDaemon, folder: Path, box: Callable[..., Box]) -> None:
    made = box("reach")
    assert made.sh(f"ls {folder}; cat {folder}/good.cedar; echo 'permit(principal,action,resource);' > {folder}/x.cedar").code != 0
    assert sorted(each.name for each in folder.iterdir()) == ["good.cedar"]


def test_a_repository_brings_rules_that_do_nothing_before_they_are_accepted(house: RealDaemon, folder: Path, tmp_path: Path) -> None:
    project = tmp_path / "repo"
    rules = project / ".aegis" / "policies"
    rules.mkdir(parents=True)
    (project / ".aegis.yaml").write_text("version: 1\n")
    (rules / "more.cedar").write_text(f'@id("more") permit({CALL});')
    question = {"principal": {"agent": "agent", "project": str(project)}, "action": "tool.call", "resource": "other.tool"}
    told = house.client.policies.explain(question)
    assert (told["verdict"], "accepted" in told["reason"]) == ("deny", True)
    trust = house.client.config.trust(project)
    assert "rule more: PERMITS tool.call" in trust["summary"]
    house.client.config.grant(project, trust["hash"])
    assert house.client.policies.explain(question)["policies"] == ["more"]
    assert house.client.policies.explain(question | {"principal": {"agent": "agent"}})["verdict"] == "deny"  # only its own instances
    (rules / "more.cedar").write_text(f'@id("more") permit({CALL});\n@id("most") permit(principal, action, resource);')
    assert not house.client.config.trust(project)["trusted"]
    assert "most" not in house.client.policies.explain(question)["policies"]
    for name, make in (
        ("a.cedar", lambda p: p.symlink_to("/etc/passwd")),
        ("b.cedar", os.mkfifo),
        ("c.cedar", lambda p: p.write_bytes(b"/" * 10_000_000)),
    ):
        make(rules / name)
        with pytest.raises(AegisError) as caught:
            house.client.config.trust(project)
        assert caught.value.kind in (ErrorKind.USAGE, ErrorKind.TOO_LARGE), name
        (rules / name).unlink()


def test_a_child_is_bound_as_its_parent_is(house: RealDaemon, folder: Path, tmp_path: Path) -> None:
    (folder / "strict.yaml").write_text(
        "apiVersion: aegis/v1\nkind: SecurityContext\nmetadata: {name: strict}\nspec:\n  capabilities: [{tool_pattern: 'aegis.*'}]\n"
    )
    (house.home / "config.yaml").write_text("agents:\n  bound: {security: strict}\n  free: {}\n  wrong: {security: stric}\n")
    try:
        with pytest.raises(AegisError) as caught:
            house.start("w", agent="wrong")
        assert (caught.value.kind, caught.value.data["nearest"]) == (ErrorKind.NOT_FOUND, "strict")
        house.start("parent", agent="bound", model="scripted/directives")
        told = house.ask(
            "parent", f"[[call aegis_spawn {json.dumps({'agent': 'free', 'slug': 'kid', 'prompt': '[[say hi]]'})}]] [[say done]]"
        )
        assert told["outcome"] == "completed", told
        kids = [each["handle"] for each in house.client.instances.all() if each["handle"] != "parent"]
        assert kids, str(house.client.mail.transcript("parent")["messages"][1:3])
        question = {"principal": kids[0], "action": "tool.call", "resource": "fs.read"}
        said = house.client.policies.explain(question)
        assert (said["verdict"], "strict" in said["reason"]) == ("deny", True)
    finally:
        (house.home / "config.yaml").unlink()
        for each in reversed(house.client.instances.all()):
            with contextlib.suppress(AegisError):
                house.client.instances.delete(each["handle"])
