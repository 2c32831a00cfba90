"""Every command and snippet of the documentation runs, through the real `aegis` and a real daemon in a home of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.docs.snippets import Snippet, commands, run, snippets

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: What a newcomer reads first; the others take their time.
FIRST = ("README.md", "getting-started.md", "sandboxes.md", "secrets.md")
FAKE = ROOT / "tests" / "programs" / "fake_program.py"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def bwrap() -> bool:
    """Whether there is a sandbox here; without one the documentation is tried with `process`."""
    program = shutil.which("bwrap")
    argv = [program or "", "--unshare-user", "--unshare-net", "--ro-bind", "/", "/", "true"]
    return program is not None and subprocess.run(argv, capture_output=True, check=False).returncode == 0


def _install_claude(folder: Path) -> None:
    """A program in the place of Claude Code, which speaks as it does and says what a message spells out; it needs no model."""
    folder.mkdir()
    program = folder / "claude"
    program.write_text(f"#!{os.path.realpath(sys.executable)}\n{FAKE.read_text()}")
    program.chmod(0o755)


@pytest.fixture
def place(bwrap: bool) -> Iterator[tuple[Path, dict[str, str]]]:
    """A directory to work in, and an environment whose home and `aegis` are the ones under test."""
    base = Path(tempfile.mkdtemp(prefix="aegis-docs-"))  # a short path, because a socket's path is
    work = base / "work"
    work.mkdir()
    _install_claude(base / "bin")
    env = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), str(base / "bin"), os.environ.get("PATH", os.defpath)]),
        "HOME": str(base),
        "AEGIS_HOME": str(base / "h"),
        "NO_COLOR": "1",
        "LANG": "C.UTF-8",
        "COLUMNS": "120",
        **({} if bwrap else {"AEGIS_DEFAULTS_SANDBOX": "process"}),
    }
    try:
        yield work, env
    finally:
        subprocess.run([sys.executable, "-m", "aegis", "down"], env=env, capture_output=True, timeout=60, check=False)
        shutil.rmtree(base, ignore_errors=True)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "document",
    [path if path.name in FIRST else pytest.param(path, marks=pytest.mark.slow) for path in DOCUMENTS],
    ids=lambda path: path.name,
)
def test_snippets_run(document: Path, place: tuple[Path, dict[str, str]], bwrap: bool) -> None:
    if document.name in ("sandboxes.md", "security.md") and not bwrap:
        pytest.skip("no bwrap sandbox on this machine")
    work, env = place
    for snippet in snippets(document.read_text()):
        try:
            run(snippet, work, env)
        except AssertionError as error:
            pytest.fail(f"{document.name}:{snippet.line}: {error}", pytrace=False)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_run(example: Path, place: tuple[Path, dict[str, str]], bwrap: bool) -> None:
    if 'permission="read"' in example.read_text() and not bwrap:
        pytest.skip("no sandbox on this machine that could keep an agent from writing")
    work, env = place
    home = Path(env["AEGIS_HOME"])
    home.mkdir(mode=0o700)  # no agent program of this machine is run; test_relay.py has pinned ones
    nowhere = "".join(f"  {name}: {{path: /nowhere}}\n" for name in ("claude-code", "codex", "gemini", "opencode"))
    (home / "config.yaml").write_text(f"programs:\n{nowhere}")
    done = subprocess.run([sys.executable, str(example)], cwd=work, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_links_lead_somewhere() -> None:
    broken = []
    for document in (*DOCUMENTS, *ROOT.glob("*.md")):
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text()):
            if "://" not in target and not (document.parent / target).exists():
                broken.append(f"{document.name}: {target}")
    assert not broken


def test_the_runner_itself(tmp_path: Path) -> None:
    text = "# x\n```console\n$ echo a b\na ...\n$ false\n[exit 1]\n```\n```bash norun\nexit 9\n```\n```text\nx\n```\n"
    found = snippets(text)
    assert [(snippet.line, snippet.language) for snippet in found] == [(3, "console"), (12, "text")]
    assert commands(found[0].text) == [("echo a b", "a ...", 0), ("false", "", 1)]
    env = {"PATH": os.environ.get("PATH", os.defpath)}
    for snippet in found:
        run(snippet, tmp_path, env)
    for wrong in ("$ echo a\nb\n", "$ exit 3\n", "$ true\n[exit 1]\n"):
        with pytest.raises(AssertionError):
            run(Snippet(1, "console", (), wrong), tmp_path, env)
