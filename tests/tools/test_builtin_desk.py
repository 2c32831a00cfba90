"""The program that works on files for the daemon: what it does, what it refuses, and what it does when somebody exchanges things."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aegis.guest import beneath
from aegis.guest.desk import perform
from aegis.guest.markdown import readable


class Desk:
    """Asks in the test's own process."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __call__(self, op: str, path: str = "", **more: Any) -> dict[str, Any]:
        return perform({"op": op, "path": [name for name in path.split("/") if name], "limit": 10_000, **more})

    def text(self, op: str, path: str = "", **more: Any) -> str:
        answer = self(op, path, **more)
        assert "error" not in answer, answer
        return str(answer["text"])

    def refuses(self, op: str, path: str = "", **more: Any) -> str:
        answer = self(op, path, **more)
        assert "error" in answer, answer
        return f"{answer['kind']}: {answer['error']}"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    return Desk(place)


def test_write_read_and_list(desk: Desk) -> None:
    assert desk.text("write", "a/b/c.txt", content="one\ntwo\nthree") == "created `a/b/c.txt`, 13 bytes"
    assert desk.text("write", "a/b/c.txt", content="one\ntwo\nthree\n") == "replaced `a/b/c.txt`, 14 bytes"
    assert desk.text("read", "a/b/c.txt") == "one\ntwo\nthree\n"
    assert desk.text("read", "a/b/c.txt", start_line=2, end_line=2) == "two\n"
    assert "before start_line" in desk.refuses("read", "a/b/c.txt", start_line=2, end_line=1)
    (desk.place / "a" / "link").symlink_to("b")
    assert desk.text("list", "a") == "b/\nlink -> b"
    assert desk.text("list", "a/b") == "c.txt\t14"
    assert desk.text("create_dir", "new/dir") == "`new/dir` is there"
    assert desk.text("list", "new/dir") == "(the directory is empty)"
    assert [name for name in os.listdir(desk.place / "a" / "b") if name != "c.txt"] == []


def test_what_is_long_is_cut_and_can_be_read_on(desk: Desk) -> None:
    (desk.place / "long").write_text("".join(f"{n:05}\n" for n in range(5000)))
    answer = desk("read", "long", limit=600)
    assert (len(answer["text"]), answer["data"]["truncated"], answer["data"]["next_line"]) == (600, True, 101)
    assert desk.text("read", "long", limit=6, start_line=101).startswith("00100")
    (desk.place / "line").write_text("x" * 5000)
    assert desk.text("read", "line", limit=1000) == "x" * 1000 + "\n"
    for n in range(1100):
        (desk.place / f"f{n:04}").touch()
    assert "[only the first" in desk.text("list", limit=10**6)
    assert "[only the first" in desk.text("glob", pattern="f*", limit=10**6)
    assert len(desk.text("glob", pattern="f*", limit=300)) < 400


def test_an_edit_is_of_one_place(desk: Desk) -> None:
    file = desk.place / "f"
    file.write_text("a\nb\na\n")
    file.chmod(0o751)
    assert "stands 2 times" in desk.refuses("edit", "f", edits=[["a", "c"]])
    assert "is not in `f`" in desk.refuses("edit", "f", edits=[["zzz", "c"]])
    assert "edit 2 of 2, so none was made" in desk.refuses("edit", "f", edits=[["b", "B"], ["b", "C"]])
    assert file.read_text() == "a\nb\na\n"
    assert desk.text("edit", "f", edits=[["b", "B"], ["B\na", "B\nA"]]) == "edited `f`, lines 2, 2"
    assert file.read_text() == "a\nB\nA\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o751
    (desk.place / "bin").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in desk.refuses("edit", "bin", edits=[["a", "b"]])


def test_an_edit_leaves_alone_what_changed_meanwhile(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    file = desk.place / "f"
    file.write_text("old")
    real = beneath.replace

    def late(*given: Any) -> None:
        file.write_text("somebody else's")
        real(*given)

    monkeypatch.setattr(beneath, "replace", late)
    assert desk.refuses("edit", "f", edits=[["old", "new"]]).startswith("conflict: ")
    assert file.read_text() == "somebody else's"


def test_delete(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (desk.place / "d" / "e").mkdir(parents=True)
    (desk.place / "d" / "e" / "f").touch()
    (desk.place / "d" / "out").symlink_to(tmp_path / "kept")
    assert desk.refuses("delete", "d").startswith("conflict: `d` is not empty; set recursive")
    assert desk.text("delete", "d", recursive=True) == "removed `d`, 4 entries"
    assert (tmp_path / "kept" / "file").exists()
    (desk.place / "out").symlink_to(tmp_path / "kept")
    assert desk.text("delete", "out", recursive=True) == "removed `out`"
    assert (tmp_path / "kept" / "file").exists()
    assert "stays" in desk.refuses("delete", "", recursive=True)
    assert desk.refuses("delete", "nothing").startswith("not_found: ")


def test_find(desk: Desk, tmp_path: Path) -> None:
    for name in ("src/a.py", "src/deep/b.py", "src/c.js", ".git/x.py", "node_modules/m.py"):
        (desk.place / name).parent.mkdir(parents=True, exist_ok=True)
        (desk.place / name).write_text(f"# {name}\nneedle = 1\n")
    (tmp_path / "secret.py").write_text("needle")
    (desk.place / "src" / "link.py").symlink_to(tmp_path / "secret.py")
    (desk.place / "src" / "out").symlink_to(tmp_path)
    assert desk.text("glob", pattern="**/*.py").split() == ["src/a.py", "src/deep/b.py", "src/link.py"]
    assert desk.text("glob", "src", pattern="*.{py,js}").split() == ["src/a.py", "src/c.js", "src/link.py"]
    assert desk.text("glob", pattern="../*") == "(nothing matches)"
    assert desk.text("glob", pattern="src/out/*") == "(nothing matches)"
    assert desk.text("glob", pattern=".git/*").split() == [".git/x.py"]
    assert desk.text("grep", pattern="needle").splitlines() == [f"src/{name}:2:needle = 1" for name in ("a.py", "c.js", "deep/b.py")]
    assert desk.text("grep", "src", pattern="needle", include="*.js") == "src/c.js:2:needle = 1"
    assert desk.text("grep", "src/a.py", pattern="^#") == "src/a.py:1:# src/a.py"
    assert desk.text("grep", pattern="needle", max=1).endswith("[only the first 1 are shown; narrow it down]")
    assert "not a regular expression" in desk.refuses("grep", pattern="(")


def test_no_name_leads_out(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("canary")
    (desk.place / "file").symlink_to(tmp_path / "secret")
    (desk.place / "dir").symlink_to(tmp_path)
    (desk.place / "root").symlink_to("/proc/self/root")
    for path in ("file", "dir/secret", "dir/new", "root/etc/passwd"):
        for op, more in (
            ("read", {}),
            ("list", {}),
            ("write", {"content": "x"}),
            ("edit", {"edits": [["canary", "x"]]}),
            ("create_dir", {}),
            ("grep", {"pattern": "c"}),
            ("glob", {"pattern": "*"}),
        ):
            answer = desk(op, path, **more)
            assert answer.get("kind") == "link", (op, path, answer)
            assert answer["link"] == path.split("/", maxsplit=1)[0]
    assert desk("delete", "dir/secret")["kind"] == "link"
    for names in (["..", "secret"], [".", "x"], [""], ["a/../../secret"], ["a\0b"], ["x" * 300]):
        answer = perform({"op": "read", "path": names, "limit": 100})
        assert answer["kind"] in ("denied", "usage"), (names, answer)
    assert (tmp_path / "secret").read_text() == "canary"
    assert sorted(os.listdir(tmp_path)) == ["secret", "work"]


def test_a_hard_link_is_not_written_through(desk: Desk, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("canary")
    os.link(outside, desk.place / "hard")
    desk.text("write", "hard", content="mine")
    assert (outside.read_text(), (desk.place / "hard").read_text()) == ("canary", "mine")
    os.unlink(desk.place / "hard")
    os.link(outside, desk.place / "hard")
    desk.text("edit", "hard", edits=[["canary", "mine"]])
    assert (outside.read_text(), (desk.place / "hard").read_text()) == ("canary", "mine")


@pytest.mark.parametrize("op", ["write", "read", "delete", "create_dir", "edit"])
def test_a_part_that_is_exchanged_for_a_link_is_not_followed(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, op: str) -> None:
    """Just before a directory is gone into, it becomes a link; just after, it is moved away and a link takes its name."""
    outside = tmp_path / "outside"
    (outside / "b").mkdir(parents=True)
    (outside / "b" / "f").write_text("canary")
    real = os.open
    for moment in ("before", "after"):
        (desk.place / "a" / "b").mkdir(parents=True)
        (desk.place / "a" / "b" / "f").write_text("mine")
        done: list[str] = []

        def swapping(path: Any, *given: Any, moment: str = moment, done: list[str] = done, **more: Any) -> int:
            def swap() -> None:
                if path == "a" and not done:
                    done.append("swapped")
                    os.rename("a", "away")
                    os.symlink(outside, "a")

            if moment == "before":
                swap()
            fd = real(path, *given, **more)
            if moment == "after":
                swap()
            return fd

        monkeypatch.setattr(os, "open", swapping)
        answer = desk(op, "a/b/f", content="x", edits=[["mine", "x"]])
        monkeypatch.setattr(os, "open", real)
        assert done
        assert "canary" not in str(answer)
        assert (outside / "b" / "f").read_text() == "canary"
        assert sorted(os.listdir(outside / "b")) == ["f"]
        assert ("error" in answer) or moment == "after" or op == "delete", answer
        os.unlink("a")
        subprocess.run(["rm", "-rf", "away"], check=True)


def test_what_is_no_file_is_not_waited_for(desk: Desk) -> None:
    os.mkfifo(desk.place / "pipe")
    assert "not a regular file" in desk.refuses("read", "pipe")
    assert "not a regular file" in desk.refuses("edit", "pipe", edits=[["a", "b"]])
    assert "not a regular file" in desk.refuses("write", "pipe", content="x")
    assert desk.text("grep", pattern="x") == "(nothing matches)"
    (desk.place / "d").mkdir()
    assert "is a directory" in desk.refuses("read", "d")
    assert "is a directory" in desk.refuses("write", "d", content="x")
    (desk.place / "binary").write_bytes(b"\0\1")
    assert "binary file of 2 bytes" in desk.refuses("read", "binary")
    assert "not a directory" in desk.refuses("read", "binary/x")


def test_the_program_answers_one_after_the_other_and_ends_with_its_input(desk: Desk) -> None:
    """As a program: framed, and a request that is none ends it."""
    script = "from aegis.guest.desk import main; main()"
    requests = b""
    for body in (b'{"op":"write","path":["f"],"limit":10,"content":"x"}', b'{"op":"read","path":["f"],"limit":10}', b'{"op":"no"}'):
        requests += len(body).to_bytes(4, "big") + body
    done = subprocess.run([sys.executable, "-c", script], input=requests, capture_output=True, cwd=desk.place, check=True)
    answers, rest = [], done.stdout
    while rest:
        size = int.from_bytes(rest[:4], "big")
        answers.append(rest[4 : 4 + size])
        rest = rest[4 + size :]
    assert b"created" in answers[0]
    assert b'"text":"x"' in answers[1]
    assert b'"kind":"failed"' in answers[2]


PAGE = """<html><head><title>A  page</title><style>a{}</style></head><body><nav><a href=/home>Home</a></nav>
<h1>Head</h1><p>Hello <b>bold </b>world, <a href="a/b?c=(1)">link <i>it</i></a>.</p><ul><li>one<li>two<ul><li>inner</ul></ul>
<ol start=3><li>x</ol><pre><code>def f():
    pass</code></pre><table><tr><th>a<th>b</tr><tr><td>1|2</td><td><p>2</p></td></tr></table><script>alert(1)</script>
<div style="display: none">HIDDEN</div><a href="javascript:x()">js</a><blockquote>said</blockquote><p>end &amp; &lt;</p>"""


def test_a_page_becomes_readable() -> None:
    text, title = readable(PAGE, "http://example.com/d/")
    assert title == "A page"
    assert text == (
        "[Home](http://example.com/home)\n\n# Head\n\nHello **bold** world, [link *it*](http://example.com/d/a/b?c=%281%29).\n\n"
        "- one\n- two\n  - inner\n\n3. x\n\n```\ndef f():\n    pass\n```\n\n| a | b |\n| --- | --- |\n| 1\\|2 | 2 |\n\njs\n\n> said\n\n"
        "end & <\n"
    )


@pytest.mark.parametrize(
    "html", ["", "<", "<p", "</p></b></li>", "<td>x</td>", "<li>" * 50, "<div>" * 5000 + "x", "\0", "<a href='http://[x'>l</a>"]
)
def test_any_page_can_be_read(html: str) -> None:
    text, _ = readable(html, "http://example.com/")
    assert isinstance(text, str)
