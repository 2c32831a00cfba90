"""`aegis held` as a person uses it, with an agent that left something, and with bad input."""

from __future__ import annotations

from tests.cli.conftest import Program

EVIL = "touch pwned\n\x1b]0;title\x07\u202e\n"


def test_list_show_release_drop(aegis: Program) -> None:
    assert "nothing is put aside" in aegis("held", "list").stdout
    assert "nothing was ever" in aegis("held", "list", "--all").stdout
    work = aegis.cwd / "work"
    work.mkdir()
    (work / ".envrc").write_text("mine\n")
    aegis("instance", "start", "--name", "a", "--workspace", str(work), "--sandbox", "process")
    (work / ".envrc").write_text(EVIL)
    (work / ".mcp.json").write_text("{}")
    (work / ".exrc").write_text("x")
    assert ".envrc" in aegis("held", "look", "a").stdout
    assert (work / ".envrc").read_text() == "mine\n"
    ids = {item["path"]: item["id"] for item in aegis.lines("held", "list", "--instance", "a")}
    assert set(ids) == {".envrc", ".mcp.json", ".exrc"}
    shown = aegis("held", "show", ids[".envrc"]).stdout
    assert "+touch pwned" in shown
    assert "-mine" in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\\u{1b}" in shown
    assert "\\u{202e}" in aegis("held", "show", ids[".envrc"], "--whole").stdout
    aegis("held", "release", ids[".envrc"][-6:])
    assert (work / ".envrc").read_text() == EVIL
    aegis("held", "drop", ids[".mcp.json"])
    assert not (work / ".mcp.json").exists()
    assert "was dropped before" in aegis("held", "drop", ids[".mcp.json"], code=None).stderr
    (work / ".exrc").write_text("somebody else's")
    assert "something else" in aegis("held", "release", "--all", code=None).stderr
    aegis("held", "drop", "--all", "--instance", "a")
    states = {item["path"]: item["state"] for item in aegis.lines("held", "list", "--all")}
    assert states[".envrc"] == "released"
    assert set(states.values()) == {"released", "dropped"}


def test_bad_input(aegis: Program) -> None:
    for words, code in (
        (("release",), 2),
        (("drop",), 2),
        (("drop", "--all", "x"), 2),
        (("release", "--instance", "a", "x"), 2),
        (("show", "nonsense"), 3),
        (("show", "held_../../../etc/passwd"), 3),
        (("release", "held_" + "0" * 21), 3),
        (("look", "nobody"), 3),
        (("list", "--instance", "nobody"), 3),
    ):
        aegis("held", *words, code=code)
