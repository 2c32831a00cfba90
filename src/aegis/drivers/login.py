"""A program's own login: which of its files hold it, and what it must reach to use it.

With `auth: login` an instance is given a copy of these files in its HOME, and the program speaks to its provider itself. That is a
choice of a person, never a default: what is inside the sandbox then holds a credential that is worth something outside.
"""

from __future__ import annotations

from typing import Final

import msgspec


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """Where a login is. `files` are relative to HOME, the first one is the login itself; `egress` are the rules that it needs."""

    files: tuple[str, ...]
    egress: tuple[str, ...]
    #: Files that hold other things as well -> the members of the JSON object in it that belong to the login; no others are copied.
    members: dict[str, tuple[str, ...]] = {}


#: The programs that are known without a description of a person.
LOGINS: Final[dict[str, Login]] = {
    "claude-code": Login(
        files=(".claude/.credentials.json", ".claude.json"),
        egress=("api.anthropic.com:443", "console.anthropic.com:443", "platform.claude.com:443"),
        members={".claude.json": ("oauthAccount", "userID", "hasCompletedOnboarding")},
    ),
    "codex": Login(files=(".codex/auth.json",), egress=("chatgpt.com:443", "auth.openai.com:443", "api.openai.com:443")),
    "gemini": Login(
        files=(".gemini/oauth_creds.json", ".gemini/google_accounts.json", ".gemini/settings.json"),
        egress=("cloudcode-pa.googleapis.com:443", "oauth2.googleapis.com:443", "accounts.google.com:443", "www.googleapis.com:443"),
        members={".gemini/settings.json": ("security",)},
    ),
    "opencode": Login(files=(".local/share/opencode/auth.json",), egress=("opencode.ai:443", "models.dev:443")),
}
