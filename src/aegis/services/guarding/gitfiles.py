"""Reading git's own files as strictly as git reads them loosely: what is not understood is not harmless."""

from __future__ import annotations

import posixpath
import re
from typing import Final

_SECTION: Final = re.compile(r'\[([A-Za-z0-9-]+)(?: "([^"\\\n]*)")?\]')
_ENTRY: Final = re.compile(r"([A-Za-z][A-Za-z0-9-]*)(?:[ \t]*=[ \t]*(.*))?")
#: A repository's own directories below `.git`, which are many and run nothing; nobody works in them.
STORES: Final = frozenset({"objects", "refs", "logs", "lfs"})
#: Keys that run nothing and lead nowhere, whatever they say.
_PLAIN: Final = frozenset(
    (
        *(f"core.{n}" for n in ("repositoryformatversion filemode bare logallrefupdates ignorecase precomposeunicode symlinks autocrlf "
        "eol safecrlf quotepath abbrev untrackedcache sparsecheckout sparsecheckoutcone longpaths protecthfs protectntfs").split()),
        *(f"user.{n}" for n in ("name", "email")), "extensions.objectformat", "extensions.refstorage", "extensions.worktreeconfig",
        "commit.gpgsign", "tag.gpgsign", "init.defaultbranch", "gc.auto", "fetch.prune", "merge.ff", "merge.conflictstyle",
        "rerere.enabled", "push.default", "push.autosetupremote", "push.followtags", "index.version", "feature.manyfiles",
    )
)  # fmt: skip
_PLAIN_SECTIONS: Final = frozenset(("advice", "branch", "color", "pull", "rebase", "status", "log"))
_URL: Final = re.compile(r"(?:https?|ssh|git)://[A-Za-z0-9\[][^\s\x00-\x20]*|[A-Za-z0-9_.-]+@[A-Za-z0-9][A-Za-z0-9.-]*:[^-:\s][^\s]*")


def entries(content: bytes) -> list[tuple[str, str]] | None:
    """The keys and values of a configuration, keys in lower case but for the name of a subsection; None where it is not plain to read."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    found: list[tuple[str, str]] = []
    section = ""
    for raw in text.split("\n"):
        line = raw.strip(" \t\r")
        if not line or line[0] in "#;":
            continue
        if line.endswith("\\") or any(ord(each) < 32 and each != "\t" for each in line):
            return None
        if line[0] == "[":
            match = _SECTION.fullmatch(line)
            if match is None:
                return None
            section = match[1].lower() + (f".{match[2]}" if match[2] is not None else "")
            continue
        entry = _ENTRY.fullmatch(line)
        if entry is None or not section:
            return None
        found.append((f"{section}.{entry[1].lower()}", _value(entry[2])))
    return found


def _value(text: str | None) -> str:
    if text is None:
        return "true"
    text = text.strip(" \t")
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1] else text


def _plain(key: str, value: str) -> bool:
    section, _, name = key.rpartition(".")
    kind, _, sub = section.partition(".")
    if key in _PLAIN or (kind in _PLAIN_SECTIONS and not value.startswith("!") and name not in ("instructionformat", "mergeoptions")):
        return True
    if kind == "remote" and sub and not sub.startswith("-"):
        return (name in ("url", "pushurl") and _URL.fullmatch(value) is not None) or name in ("fetch", "tagopt", "prune")
    if kind == "submodule" and sub:
        return (name == "url" and _URL.fullmatch(value) is not None) or name in ("active", "branch", "ignore", "fetchrecursesubmodules")
    return False


def harmless_config(now: bytes, before: bytes) -> bool:
    """Whether a git configuration runs nothing and leads nowhere, beyond what it did before."""
    found = entries(now)
    if found is None:
        return False
    known = set(entries(before) or ())
    return all(_plain(key, value) or (key, value) in known for key, value in found)


def harmless_modules(now: bytes, before: bytes) -> bool:
    """Whether `.gitmodules` only names places to fetch from."""
    found = entries(now)
    return found is not None and all(key.startswith("submodule.") and not value.startswith(("!", "-", "ext:")) for key, value in found)


def harmless_pointer(path: str, content: bytes) -> bool:
    """Whether a `.git` file or a `commondir` is what git itself makes for a worktree or a submodule of the same repository."""
    text = content.decode("utf-8", "replace").strip()
    above, _, name = path.rpartition("/")
    if name == "commondir":
        return text == "../.." and above.rpartition("/")[0].endswith(".git/worktrees")
    leads = text.removeprefix("gitdir:").strip()
    if not text.startswith("gitdir:") or "\n" in leads:
        return False
    plain = leads.removeprefix("/workspace/") if leads.startswith("/workspace/") else posixpath.join(above, leads)
    match = re.match(r"(?!\.\./|/)(?:.*/)?\.git/(?:modules|worktrees)/(.+)", posixpath.normpath(plain))
    return match is not None and STORES.isdisjoint(match[1].split("/"))


def hooks_path(config: bytes) -> str:
    """Where a configuration has its hooks, "" where it does not say. Read loosely: a name that may be meant counts."""
    found = re.findall(rb"(?im)^\s*(?:\[[^\]\n]*\])?\s*hookspath\s*=\s*(.*?)\s*$", config)
    return found[-1].strip(b'"').decode("utf-8", "replace") if found else ""
