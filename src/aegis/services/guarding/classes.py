"""The table: which files act on a person, who acts on them and when, and what becomes of those that an agent leaves.

`hold`: something runs by itself, or as soon as a person does what he does all day (`git status`, `cd`, opening the folder). `tell`: it is
read, or runs when a person asks for just that; people have agents write such files. What a person starts by its name (a Makefile, a test,
a script of a package) is in no class.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import translate
from typing import Final, NamedTuple

from aegis.services.guarding.gitfiles import harmless_config, harmless_modules

#: What the key `guard` of an agent may say.
WORDS: Final = ("hold", "tell", "off")


class Rule(NamedTuple):
    """One class. `acts` is for people. `harmless` reads the content now and before: what passes is told, or of git's own not even that."""

    name: str
    does: str
    patterns: tuple[str, ...]
    acts: str
    harmless: Callable[[bytes, bytes], bool] | None = None


def _no_automatic_task(now: bytes, before: bytes) -> bool:
    text = now.decode("utf-8", "replace").lower()
    return not any(word in text for word in ("runon", "folderopen", "\\u", "\0"))


_KEY: Final = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:')
#: Keys of editors' settings that name a program, its arguments or its environment.
_RUNS: Final = re.compile(
    r"path|command|cmd|args|argv|exec|interpreter|shell|profile|tsdk|env|options|server|binary|tool|task|script|launch|hook|plugin|proxy|"
    r"preload|runtime|node|lib|dll|wrapper|\\",
    re.IGNORECASE,
)


def _plain_settings(now: bytes, before: bytes) -> bool:
    """Whether the settings of an editor name no program beyond those that they named before."""
    text, known = now.decode("utf-8", "replace"), before.decode("utf-8", "replace")
    return text == known or not ("${" in text or any(_RUNS.search(key) for key in _KEY.findall(text)))


_LOADED: Final = ("plugin", "plugins", "tool", "tools")
#: git's own, wherever a repository lies; `looking` finds them.
GIT: Final = (
    Rule("git hook", "hold", (), "git runs it at a commit, a checkout, a merge or a push"),
    Rule("git config", "hold", (), "git runs what it names, `git status` too", harmless_config),
    Rule("git directory", "hold", (), "it turns git to another configuration"),
)
TABLE: Final = (
    *GIT,
    Rule("direnv", "hold", (".envrc",), "direnv runs it in your shell"),
    Rule(
        "MCP servers",
        "hold",
        (".mcp.json", ".cursor/mcp.json", ".vscode/mcp.json", ".roo/mcp.json", ".kilocode/mcp.json"),
        "agents and editors start what it declares",
    ),
    Rule(
        "Claude Code",
        "hold",
        (".claude/settings.json", ".claude/settings.local.json", ".claude/hooks/*", ".claude/plugins/*"),
        "Claude Code runs the hooks that it declares",
    ),
    Rule(
        "Gemini CLI",
        "hold",
        (".gemini/settings.json", ".gemini/.env", ".gemini/extensions/*", ".gemini/hooks/*", ".gemini/policies/*"),
        "Gemini CLI starts what it declares",
    ),
    Rule("Codex", "hold", (".codex/config.toml", ".codex/hooks.json", ".codex/hooks/*"), "Codex starts what it declares"),
    Rule(
        "OpenCode",
        "hold",
        ("opencode.json", "opencode.jsonc", ".opencode/opencode.json*", *(f".opencode/{name}/*" for name in _LOADED)),
        "OpenCode loads it, or starts what it declares",
    ),
    Rule("Cursor", "hold", (".cursor/hooks.json", ".cursor/hooks/*"), "Cursor runs the hooks that it declares"),
    Rule("editor tasks", "hold", (".vscode/tasks.json",), "an editor runs tasks when the folder is opened", _no_automatic_task),
    Rule(
        "editor settings",
        "hold",
        (".vscode/settings.json", "*.code-workspace", ".zed/settings.json"),
        "an editor runs the programs that it names",
        _plain_settings,
    ),
    Rule("IDE tasks", "hold", (".idea/watcherTasks.xml", ".idea/startup.xml"), "the IDE runs it when a file or the folder is opened"),
    Rule("vim", "hold", (".exrc", ".nvimrc", ".nvim.lua", ".vimrc"), "vim may run it in this folder"),
    Rule("git submodules", "tell", (".gitmodules",), "git fetches from what it names", harmless_modules),
    Rule(
        "instructions",
        "tell",
        (
            *("AGENTS.md", "AGENTS.override.md", "CLAUDE.md", "CLAUDE.local.md", "GEMINI.md"),
            *(".cursorrules", ".cursor/rules/*", ".github/copilot-instructions.md"),
            *(f".claude/{name}/*" for name in ("commands", "agents", "skills", "rules")),
            *(f".opencode/{name}/*" for name in ("agent", "agents", "command", "commands", "skill", "skills")),
            *(".gemini/commands/*", ".codex/prompts/*", ".codex/skills/*"),
        ),
        "other agents follow it",
    ),
    Rule("Aegis", "tell", (".aegis.yaml", ".aegis.yml", ".aegis/*"), "Aegis asks you before it counts"),
    Rule("editor", "tell", (".vscode/launch.json", ".zed/tasks.json", ".idea/*"), "an editor offers it"),
    Rule("dev container", "tell", (".devcontainer/*", ".devcontainer.json"), "an editor offers to start it"),
)
RULES: Final = {rule.name: rule for rule in TABLE}

_PATTERNS: Final = [(re.compile(rf"(?s:(?:.*/)?){translate(pattern)}"), rule) for rule in TABLE for pattern in rule.patterns]
#: Directories whose files are looked at one by one, and which an agent does not put a link in the place of.
CONTAINERS: Final = frozenset(pattern.split("/")[0] for rule in TABLE for pattern in rule.patterns if "/" in pattern)
_LEAVES: Final = frozenset(pattern for rule in TABLE for pattern in rule.patterns if "/" not in pattern and "*" not in pattern)
_ENDINGS: Final = tuple(pattern[1:] for rule in TABLE for pattern in rule.patterns if "/" not in pattern and pattern.startswith("*"))


def interesting(name: str) -> bool:
    """Whether a file of this name, wherever it lies, may be in a class."""
    return name in _LEAVES or name.endswith(_ENDINGS)


def rule_of(path: str) -> Rule | None:
    """The class of a file by its path, relative to anything; git's own are not told by their path."""
    return next((rule for pattern, rule in _PATTERNS if pattern.match(path)), None)


def container_rule(name: str) -> Rule:
    """The strictest class of what may lie in a directory of this name."""
    found = [rule for rule in TABLE for pattern in rule.patterns if pattern.startswith(f"{name}/")]
    return min(found, key=lambda rule: WORDS.index(rule.does))
