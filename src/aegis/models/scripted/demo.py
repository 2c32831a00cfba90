"""The model `demo`: mends the shipped demo repository, step by step, from what its tools returned.

Every step is chosen by looking at the results in the conversation, so it goes on rightly after an interruption at any
point: a call whose result was lost is looked into again, an edit that may or may not have happened is settled by reading
the file. In any other place, or for any other wish, it looks around and then says plainly what it is.
"""

from __future__ import annotations

import re
from typing import Final

from aegis.core.text import one_line
from aegis.models.scripted.acts import Act, say
from aegis.models.scripted.conversation import Conversation, Item, Result, Use, User, tells_of_interruption
from aegis.models.scripted.hands import Done, Hands

SOURCE: Final = "textkit/slug.py"
BUG: Final = 'return text.strip().replace(" ", "-")'
FIX: Final = 'return "-".join(re.findall(r"[a-z0-9]+", text.lower()))'
_TASK: Final = re.compile(r"fix|mend|repair|test|bug|fail|slug|green|pass", re.I)
_TESTS: Final = re.compile(r"python3? -m (?:unittest|pytest)[ \w./-]*")
_TEST_FILE: Final = re.compile(r"(?:[\w.-]+/)*test[\w-]*\.py")
_DEFAULT_TESTS: Final = "python3 -m unittest -q"
_EVERY: Final = 0.02  # seconds between pieces, so that a person sees the text arrive

PLAINLY: Final = (
    "I am `scripted/demo`, the scripted offline model that comes with Aegis. I am not a real model: I follow a fixed script, and "
    "the only real work I can do is to mend the demo repository. For this task use a real model: store a key with "
    "`aegis secret set ANTHROPIC_API_KEY` and choose `anthropic/claude-sonnet-4-5`, or choose `ollama/NAME` for a model on this "
    "machine; `aegis doctor` shows which ones are ready."
)

#: The answer to a question about the work after it is done.
WRONG: Final = (
    "`slugify` replaced spaces and did nothing else: upper case, punctuation and runs of separators stayed in the slug. "
    "(Said by the offline script.)"
)


def demo(conversation: Conversation) -> list[Act]:
    """The next step."""
    start, task = _task(conversation.items)
    if not _TASK.search(task) and any(isinstance(item, Use) and FIX in str(item.input) for item in conversation.items[:start]):
        return _words(WRONG)
    hands = Hands(conversation)
    done = hands.done([item for item in conversation.items[start:] if isinstance(item, Use | Result)])
    return _Work(hands, done, task).step()


def _task(items: list[Item]) -> tuple[int, str]:
    """Where the present task begins, and its words: the last texts of the user that are not about an interruption."""
    words: list[str] = []
    start = 0
    for index in range(len(items) - 1, -1, -1):
        item = items[index]
        if isinstance(item, User):
            if not tells_of_interruption(item.text):
                words.insert(0, item.text[:20_000])
                start = index if len(words) == 1 else start
        elif words:
            break
    return start, "\n".join(words)


class _Work:
    """One task: what was done, and what follows from it."""

    def __init__(self, hands: Hands, done: list[Done], task: str) -> None:
        self._hands = hands
        self._done = done
        self._task = task

    def step(self) -> list[Act]:
        """The text and the call that come next, or the last words."""
        if sum(one.lost for one in self._done) > 20:
            return _words("I was interrupted too often and stop here. " + PLAINLY)
        if self._wants("list", "."):
            return self._look("I will see what is here first.", ".")
        if "textkit" in self._listing() and _TASK.search(self._task) and self._hands.can("read"):
            return self._mend()
        return self._look_around()

    # -- the demo repository --

    def _mend(self) -> list[Act]:
        if "README.md" in self._listing() and self._wants("read", "README.md"):
            return self._read("The README may say how the tests are run.", "README.md")
        if not _TEST_FILE.search(self._listing()) and "tests" in self._listing() and self._wants("list", "tests"):
            return self._look("Now the tests.", "tests")
        if self._wants("read", self._test_file()):
            return self._read("I will read what the test expects.", self._test_file())
        state = self._state()
        if state == "unknown":
            if self._wants("read", SOURCE, after=self._last_edit()):
                return self._read("Now the code it tests.", SOURCE)
            return _words(f"I could not read `{SOURCE}`, so I stop here. " + PLAINLY)
        if state == "strange":
            return _words(f"`{SOURCE}` is not the file of the demo repository, so I do not touch it. " + PLAINLY)
        before, after = self._runs()
        if state == "broken" and not before and self._hands.can("shell"):
            return self._run_tests("I have seen both. I run the tests to see them fail before I change anything.")
        if state == "broken":
            return self._edit()
        if not after and self._hands.can("shell"):
            return self._run_tests("The change is made. I run the tests again.")
        return _words(self._report(before, after))

    def _edit(self) -> list[Act]:
        failed = sum(one.purpose == "edit" and not one.ok and not one.lost for one in self._done)
        if not self._hands.can("edit") or failed > 1:
            reason = "the edit was refused" if failed else "no tool for editing is on offer here"
            return _words(
                f"I know the mend, but {reason}: in `{SOURCE}` replace `{BUG}` by `{FIX}`. (This was the scripted offline model.)"
            )
        text = "The function only strips and replaces spaces. It must lower the case, drop punctuation and join the words with one dash."
        return [*_words(text), self._hands.use("edit", path=SOURCE, old=BUG, new=FIX)]

    def _state(self) -> str:
        """Of the source, by the last thing known about it: unknown, broken, fixed or strange."""
        state = "unknown"
        for one in self._done:
            if one.purpose == "edit":
                state = "fixed" if one.ok else "unknown"
            elif one.purpose == "read" and one.ok and one.path.endswith(SOURCE):
                state = "broken" if BUG in one.text else "fixed" if FIX in one.text else "strange"
        return state

    def _last_edit(self) -> int:
        return max((i for i, one in enumerate(self._done) if one.purpose == "edit"), default=-1)

    def _runs(self) -> tuple[str, str]:
        """The last output of the tests before and after the last edit; empty where they were not run."""
        edit = self._last_edit()
        before = after = ""
        for index, one in enumerate(self._done):
            if one.purpose == "shell" and _TESTS.search(one.command) and not one.lost:
                if index < edit or edit < 0:
                    before = one.text or "(no output)"
                if index > edit:
                    after = one.text or "(no output)"
        return before, after

    def _run_tests(self, text: str) -> list[Act]:
        readme = next((one.text for one in self._done if one.path.endswith("README.md") and one.ok), "")
        found = _TESTS.search(readme)
        return [*_words(text), self._hands.use("shell", command=found[0].strip() if found else _DEFAULT_TESTS)]

    def _report(self, before: str, after: str) -> str:
        changed = self._last_edit() >= 0
        about = (
            "Done. `slugify` now lowers the case, drops punctuation and joins the words with single dashes. "
            if changed
            else f"`{SOURCE}` is already mended, so I changed nothing. "
        )
        if not after:
            return about + "I could not run the tests here. (This was the scripted offline model.)"
        told = "The tests pass now." if _passed(after) else f"But the tests do not pass: {one_line(after[-400:], 300)}"
        if changed and before and not _passed(before) and _passed(after):
            told = "The tests failed before the change and pass now."
        return about + told + " (This was the scripted offline model: the steps were real, the thinking was not.)"

    def _test_file(self) -> str:
        for one in self._done:
            if one.purpose in ("list", "shell") and one.ok and (found := _TEST_FILE.search(one.text)):
                inside = one.path.strip("./")
                return found[0].removeprefix("./") if not inside or found[0].startswith(inside) else f"{inside}/{found[0]}"
        return "tests/test_slug.py"

    # -- any other place --

    def _look_around(self) -> list[Act]:
        if "README.md" in self._listing() and self._hands.can("read") and self._wants("read", "README.md"):
            return self._read("I will read the README.", "README.md")
        if self._hands.can("shell") and not any(one.command.startswith("git log") and not one.lost for one in self._done):
            return [*_words("And what happened here lately."), self._hands.use("shell", command="git log --oneline -5")]
        seen = ""
        if self._listing():
            seen += f"I looked around and saw: {one_line(self._listing()[:1000], 160)}. "
        log = next((one.text for one in self._done if one.command.startswith("git log") and one.ok), "")
        if log and "fatal" not in log:
            seen += f"The last commit is: {one_line(log.splitlines()[0], 100)}. "
        return _words(seen + PLAINLY)

    # -- both --

    def _listing(self) -> str:
        """What is known to be in the repository."""
        return "\n".join(one.text[:100_000] for one in self._done if one.ok and (one.purpose == "list" or one.command.startswith("find ")))

    def _wants(self, purpose: str, path: str, after: int = -1) -> bool:
        """Whether this still has to be looked at: never done since `after`, or only lost, or failed once."""
        tries = [one for one in self._done[after + 1 :] if one.path == path and one.purpose == purpose]
        if purpose == "list" and not self._hands.can("list"):
            if not self._hands.can("shell"):
                return False
            tries = [one for one in self._done if one.command == _find(path)]
        return not any(one.ok for one in tries) and sum(not one.ok and not one.lost for one in tries) < 2

    def _look(self, text: str, path: str) -> list[Act]:
        call = self._hands.use("list", path=path) if self._hands.can("list") else self._hands.use("shell", command=_find(path))
        return [*_words(text), call]

    def _read(self, text: str, path: str) -> list[Act]:
        return [*_words(text), self._hands.use("read", path=path)]


def _words(text: str) -> list[Act]:
    return [say(text, _EVERY)]


def _find(path: str) -> str:
    return f"find {path} -maxdepth 2 -not -path '*/.git*' -type f"


def _passed(output: str) -> bool:
    return re.search(r"^OK\b|\b\d+ passed\b", output, re.M) is not None and "FAILED" not in output
