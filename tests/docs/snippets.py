"""Reads and runs the snippets of a Markdown file, in order, in one directory.

The language of a fence says what happens to the block:

- `console`: each line `$ command` is run and has to succeed; the lines under it are what it prints, where `...` stands for anything.
  A last line `[exit N]` expects that exit code.
- `bash`, `python`: the block is run as one script and has to succeed.
- `yaml file=NAME`: the block is written to NAME. `yaml` alone is checked to be a valid declaration.
- `norun` after the language: the block is not touched. Blocks in other languages are text.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from aegis.services.config.document import parse
from aegis.services.config.reading import Values, read

_FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LIMIT = 60  # seconds for one command


class Snippet(NamedTuple):
    """One block: where it stands, its language, the words after the language, its text."""

    line: int
    language: str
    words: tuple[str, ...]
    text: str


def snippets(markdown: str) -> list[Snippet]:
    """The blocks of a document that are to be run, in order."""
    found = [
        Snippet(markdown[: match.start()].count("\n") + 2, match[1], tuple(match[2].split()), match[3])
        for match in _FENCE.finditer(markdown)
    ]
    return [snippet for snippet in found if "norun" not in snippet.words]


def run(snippet: Snippet, cwd: Path, env: dict[str, str]) -> None:
    """Run one block; an AssertionError says what it did otherwise."""
    match snippet.language:
        case "console":
            for command, expected, code in commands(snippet.text):
                _check(["bash", "-c", command], cwd, env, expected, code)
        case "bash":
            _check(["bash", "-euo", "pipefail", "-c", snippet.text], cwd, env, None, 0)
        case "python":
            _check([sys.executable, "-c", snippet.text], cwd, env, None, 0)
        case "yaml":
            read(parse(snippet.text.encode(), "snippet"), Values({}, {}))
            for word in snippet.words:
                if word.startswith("file="):
                    path = cwd / word.removeprefix("file=")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(snippet.text)


def commands(text: str) -> list[tuple[str, str, int]]:
    """The commands of a console block: what is typed, what is printed (empty: not said), the exit code."""
    found: list[tuple[list[str], list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append(([line[2:]], []))
        elif found and not found[-1][1] and found[-1][0][-1].endswith("\\"):
            found[-1][0].append(line)
        else:
            assert found, f"a console block begins with `$ `, not with {line!r}"
            found[-1][1].append(line)
    result = []
    for typed, printed in found:
        code = 0
        if printed and (exit_line := re.fullmatch(r"\[exit (\d+)\]", printed[-1])):
            code = int(exit_line[1])
            printed.pop()
        result.append(("\n".join(typed), "\n".join(printed), code))
    return result


def _check(argv: list[str], cwd: Path, env: dict[str, str], expected: str | None, code: int) -> None:
    done = subprocess.run(
        argv,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    what = f"$ {argv[-1]}\n{done.stdout}"
    assert done.returncode == code, f"{what}\n[exit {done.returncode}], not {code}"
    if expected:
        pattern = ".*".join(re.escape(part) for part in expected.strip().split("..."))
        assert re.fullmatch(pattern, done.stdout.strip(), re.DOTALL), f"{what}\nis not\n{expected}"
