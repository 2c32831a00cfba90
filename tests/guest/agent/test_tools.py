"""The tools, each as the loop uses it; glob against pathlib."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis.guest import patterns
from aegis.guest.agent import tools
from aegis.guest.agent.tools import search
from aegis.guest.agent.tools.output import Output
from aegis.guest.agent.wire import Wire


class Use:
    """Use a tool in `place`."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._pipes = [os.pipe(), os.pipe()]
        self.wire = Wire(self._pipes[0][0], self._pipes[1][1])

    def __call__(self, name: str, *, seconds: float = 20.0, **arguments: Any) -> Output:
        self.wire.begin(50.0)
        return tools.use(self.wire, name, arguments, "", "write", seconds)

    def close(self) -> None:
        for fd in (fd for pair in self._pipes for fd in pair):
            os.close(fd)


@pytest.fixture
def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Use]:
    monkeypatch.chdir(tmp_path)
    one = Use(tmp_path)
    yield one
    one.close()


def test_schemas_and_table() -> None:
    for tool in tools.TOOLS.values():
        assert set(tool.required) <= set(tool.properties)
    assert [t["name"] for t in tools.offered("write")] == ["read", "write", "edit", "list", "glob", "grep", "bash"]


# read


def test_read(use: Use, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one\ntwo\r\nthree")
    assert use("read", path="a").text == "1\tone\n2\ttwo\n3\tthree"
    assert use("read", path=str(tmp_path / "a"), start_line=2, end_line=2).text == "2\ttwo"
    assert use("read", path="a", start_line=9).text == "(the file has only 3 lines)"
    assert not use("read", path="a", start_line=3, end_line=2).ok
    assert use("read", path="a", start_line=None).ok
    (tmp_path / "empty").touch()
    assert use("read", path="empty").text == "(the file is empty)"


def test_read_what_is_no_text(use: Use, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"\x7fELF\0\0")
    os.mkfifo(tmp_path / "pipe")
    assert "binary file of 6 bytes" in use("read", path="b").text
    assert "not a regular file" in use("read", path="pipe").text
    assert "not a regular file" in use("read", path="/dev/zero").text
    assert "use list" in use("read", path=".").text
    assert use("read", path="nope").text == "error: nope: No such file or directory"
    (tmp_path / "latin").write_bytes(b"gr\xfc\xdfe")
    assert use("read", path="latin").text == "1\tgr\ufffd\ufffde"


def test_read_huge(use: Use, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("".join(f"line {i}\n" for i in range(1, 100_001)))
    got = use("read", path="lines")
    assert got.truncated
    last = int(got.text.rsplit("start_line=", 1)[1].rstrip("]"))
    assert f"\n{last - 1}\tline {last - 1}\n" in got.text
    assert use("read", path="lines", start_line=last, end_line=last).text == f"{last}\tline {last}"
    (tmp_path / "long").write_bytes(b"x" * 50_000_000 + b"\nend\n")
    got = use("read", path="long")
    assert len(got.text) < 3000
    assert got.text.endswith("2\tend")
    assert "49998000 more in this line" in got.text


# write, edit, list


def test_write(use: Use, tmp_path: Path) -> None:
    assert use("write", path="d/e/f", content="ü").text == "created `d/e/f`, 2 bytes"
    assert use("write", path="d/e/f", content="").text == "replaced `d/e/f`, 0 bytes"
    assert "directory" in use("write", path="d", content="").text
    os.mkfifo(tmp_path / "pipe")
    assert not use("write", path="pipe", content="x").ok
    (tmp_path / "script").write_text("a")
    (tmp_path / "script").chmod(0o755)
    use("write", path="script", content="b")
    assert (tmp_path / "script").stat().st_mode & 0o777 == 0o755


def test_edit(use: Use, tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("one\ntwo\none\n")
    assert use("edit", path="a", old_text="two", new_text="2").text == "replaced 1 in `a`, line 2"
    twice = use("edit", path="a", old_text="one", new_text="1")
    assert not twice.ok
    assert "2 times in `a` (lines 1, 3)" in twice.text
    assert use("edit", path="a", old_text="one", new_text="1", all=True).ok
    assert file.read_text() == "1\n2\n1\n"


def test_edit_that_finds_nothing(use: Use, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("def first():\n    return compute(1)\n\ndef second():\n    pass\n")
    near = use("edit", path="a", old_text="    return compute(2)", new_text="x").text
    assert "nearest lines" in near
    assert "2\t    return compute(1)" in near
    space = use("edit", path="a", old_text="def  first():\n  return compute(1)", new_text="x").text
    assert "lines 1 to 2 differ in white space only" in space
    assert "read the file first" in use("edit", path="a", old_text="@@@@@@", new_text="x").text
    assert "use write" in use("edit", path="a", old_text="", new_text="x").text
    assert "the same" in use("edit", path="a", old_text="pass", new_text="pass").text


def test_edit_keeps_line_ends(use: Use, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one\r\ntwo\r\nthree\n")
    assert use("edit", path="a", old_text="one\ntwo", new_text="1\n2").ok
    assert (tmp_path / "a").read_bytes() == b"1\r\n2\r\nthree\n"
    (tmp_path / "b").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in use("edit", path="b", old_text="a", new_text="b").text


def test_list(use: Use, tmp_path: Path) -> None:
    assert use("list").text == "(the directory is empty)"
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_text("abc")
    (tmp_path / "l").symlink_to("nowhere")
    (tmp_path / os.fsdecode(b"x\xff")).touch()
    assert use("list").text == "d/\nf\t3\nl -> nowhere\nx?\t0"
    assert not use("list", path="f").ok


# glob, grep


def test_glob(use: Use, tmp_path: Path) -> None:
    for name in ("src/a.go", "src/x/test/b.go", "src/x/y/test/c.go", "src/test/d.go", ".git/e.go", "node_modules/f.go", "w.ts", "w.tsx"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert use("glob", pattern="src/**/test/*.go").text.split() == ["src/test/d.go", "src/x/test/b.go", "src/x/y/test/c.go"]
    assert use("glob", pattern="**/*.go").text.split() == ["src/a.go", "src/test/d.go", "src/x/test/b.go", "src/x/y/test/c.go"]
    assert use("glob", pattern=".git/*").text == ".git/e.go"
    assert use("glob", pattern="*.{ts,tsx}").text.split() == ["w.ts", "w.tsx"]
    assert use("glob", pattern="*", path="src").text.split() == ["src/a.go", "src/test/", "src/x/"]
    assert use("glob", pattern=f"{tmp_path}/*.ts").text == f"{tmp_path}/w.ts"
    assert use("glob", pattern="*.zig").text == "(nothing matches)"
    assert not use("glob", pattern="*", path="w.ts").ok
    (tmp_path / "loop").symlink_to(".")
    assert "loop/" not in use("glob", pattern="**/*.go").text


NAMES = st.sampled_from(["a", "b", "ab", "a.py", ".h"])
PARTS = st.sampled_from(["a", "b", "*", "**", "a*", "?", "[ab]", "*.py", ".*"])


@settings(max_examples=150, deadline=None)
@given(st.sets(st.lists(NAMES, min_size=1, max_size=4).map("/".join), max_size=12), st.lists(PARTS, min_size=1, max_size=4))
def test_glob_is_pathlib(paths: set[str], parts: list[str]) -> None:
    if parts[-1] == "**":
        parts = [*parts, "*"]  # what `**` alone at the end means differs between versions of pathlib
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for path in paths:
            try:
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).touch()
            except OSError:
                continue  # a file stands where a directory should be
        pattern = "/".join(parts)
        expected = {str(p) for p in root.glob(pattern)}
        found = {p.rstrip("/") for p in search.glob({"pattern": pattern, "path": name}).text.splitlines()}
        assert found == (expected or {"(nothing matches)"})
        for path in (p for p in root.rglob("*") if p.is_file()):
            assert patterns.like(list(path.relative_to(root).parts), parts) == (str(path) in expected)


def test_grep(use: Use, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.py").write_text("import os\nx = 1\n" + "y" * 1000 + "import z\n")
    (tmp_path / "b.txt").write_text("import nothing\n")
    (tmp_path / "bin").write_bytes(b"import\0")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/c").write_text("import git\n")
    os.mkfifo(tmp_path / "pipe")
    assert use("grep", pattern="^import").text == "b.txt:1:import nothing\nsrc/a.py:1:import os"
    assert use("grep", pattern="^import", include="*.py").text == "src/a.py:1:import os"
    assert use("grep", pattern="^import", include="src/**/*.{py,go}").text == "src/a.py:1:import os"
    assert use("grep", pattern="import", path="src/a.py").text.splitlines()[1] == "src/a.py:3:" + "y" * 300 + "..."
    limited = use("grep", pattern="import", max=1)
    assert limited.truncated
    assert limited.text.startswith("b.txt:1:import nothing\n[only the first 1")
    assert use("grep", pattern="absent").text == "(nothing matches)"
    assert "not a regular expression" in use("grep", pattern="(").text
    assert not use("grep", pattern="a", path="nope").ok


# bash


def test_bash(use: Use, tmp_path: Path) -> None:
    assert use("bash", command="echo out; echo err >&2").text == "out\nerr"
    failed = use("bash", command="echo no; exit 3")
    assert (failed.ok, failed.text) == (False, "no\n[exit code 3]")
    assert use("bash", command="true").text == "[exit code 0]"
    assert use("bash", command="kill -SEGV $$").text == "[killed by SIGSEGV]"
    assert use("bash", command="pwd; cat").text == str(tmp_path)
    assert use("bash", command="cd /; export X=1").ok
    assert use("bash", command="pwd; echo $X").text == str(tmp_path)
    # Signals that Python ignores must not stay ignored in programs.
    ignored = int(use("bash", command="grep SigIgn /proc/self/status").text.split()[1], 16)
    assert ignored & 0x7FFFFFFF == 0  # the two above are the C library's own


def test_bash_keeps_both_ends_of_its_output(use: Use) -> None:
    got = use("bash", command="echo first; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo last")
    assert got.truncated
    assert got.text.startswith("first\n")
    assert got.text.endswith("x\nlast")
    assert "bytes left out" in got.text
    assert len(got.text) < 31_000


def test_bash_background_child_does_not_block_and_lives_on(use: Use, tmp_path: Path) -> None:
    # It holds stdout, and goes on writing to it after the call: neither may block the call nor kill the child.
    script = "echo $$ > pid; until [ -e go ]; do sleep 0.01; done; echo late; echo later; touch survived; exec sleep 1000"
    got = use("bash", command=f"sh -c '{script}' & until [ -s pid ]; do :; done; echo now")
    assert (got.ok, got.text) == (True, "now")
    (tmp_path / "go").touch()
    assert use("bash", command="until [ -e survived ]; do sleep 0.01; done; kill $(cat pid)").ok


def test_bash_child_that_keeps_talking_does_not_block(use: Use) -> None:
    got = use("bash", command="echo begun; yes & echo $! > pid")
    assert got.text.startswith("begun\n")
    assert use("bash", command="kill $(cat pid)").ok


def test_a_tool_that_dies_says_so(use: Use) -> None:
    tools.TOOLS["die"] = tools.Tool("die", "", lambda _: os._exit(9), {}, ())
    try:
        assert use("die").text == "error: the tool died (exit 9)"
    finally:
        del tools.TOOLS["die"]
