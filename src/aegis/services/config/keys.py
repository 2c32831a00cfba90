"""The table of keys: the one place that says which keys exist, what they may hold, what they mean and what they are when unset.

Validation, `aegis config explain`, the environment's variables and the key reference in the documentation all come from it.
In a name, `NAME` stands for any name, `PROVIDER` for that of a provider and `VARIABLE` for that of an environment variable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, get_args

from aegis.core.dialects import Dialect
from aegis.drivers import AgentLimits, Permission
from aegis.sandboxes import Limits, SandboxName
from aegis.services.config import kinds as k
from aegis.services.config.bounds import MAX_TOKENS, SCOPES, Dollars, Share
from aegis.services.config.model import SpawnRights
from aegis.services.config.reach import EgressRules, Families, Headers, McpServers, ServerNames, Words
from aegis.services.config.telling import NOTICES, Argv, Notices, QuietHours

#: No user info: credentials are secrets. Nothing that turns the path of a call into something else, or is not seen when shown.
_URL: Final = re.compile(r"https?://[A-Za-z0-9\[](?:(?![@?#\\])[!-~]){0,500}")


#: How hard to think, and a mode: words of the program, which knows them itself.
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_WITHOUT_VARIABLE: Final = (k.Mounts, k.Secrets, EgressRules, Families, McpServers, ServerNames, Argv, Notices, QuietHours)


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `default` is in the typed form of its kind; None means that the daemon chooses, or that there is none."""

    name: str
    kind: k.Kind
    meaning: str
    default: Any = None

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.name.split("."))

    @property
    def variable(self) -> str | None:
        """The environment variable that sets it; None for a key with a placeholder and for lists."""
        if self.name == "version" or not PLACEHOLDERS.keys().isdisjoint(self.parts) or isinstance(self.kind, _WITHOUT_VARIABLE):
            return None
        return "AEGIS_" + self.name.upper().replace(".", "_")


_TURN: Final = AgentLimits()
_SPAWN: Final = SpawnRights()

#: What may be said of one agent and, under `defaults`, of all that do not say otherwise.
_AGENT: Final = (
    Key(
        "provider",
        k.Text("the name of a provider", k.PROVIDER),
        "Which program runs the agent: `native` (Aegis's own), `claude-code`, `codex`, `gemini`, `opencode`, or one that you described.",
        "native",
    ),
    Key(
        "model",
        k.Text("`provider/model` or an alias from `models`", limit=264),
        "The model, as `provider/model` or as an alias declared under `models`. Unset: the best one the daemon can reach.",
    ),
    Key("effort", k.Text("a word of the program", _WORD), "How hard the model is to think, in the program's own words."),
    Key("mode", k.Text("a word of the program", _WORD), "The mode of the program to start in, such as `plan`, where it has modes."),
    Key(
        "sandbox",
        k.Choice(get_args(SandboxName)),
        "What isolates an instance. `process` is no boundary. Unset: the strongest one that works here.",
    ),
    Key(
        "permission",
        k.Choice(get_args(Permission)),
        "`read` makes the workspace read-only inside. `full` is `write` with what `egress` and writable `mounts` give besides.",
        "write",
    ),
    Key(
        "approvals",
        k.Choice(("auto", "ask")),
        "Who answers when the program asks before it uses a tool: the rules of the permission, or a person (`aegis approvals`).",
        "auto",
    ),
    Key(
        "approvals_deadline",
        k.Duration(),
        "How long what it asks leave for waits for a person, before `approvals_default` answers: a week outlasts a weekend and a holiday.",
        7 * 86400.0,
    ),
    Key(
        "approvals_default",
        k.Choice(("reject", "approve")),
        "What counts when nobody answers in time. `approve` lets an agent do what nobody looked at: it is warned of wherever it is used.",
        "reject",
    ),
    Key(
        "auth",
        k.Choice(("broker", "login")),
        "`broker`: the daemon holds the key of the model and meters each call. `login`: the program gets a copy of its own login.",
        "broker",
    ),
    Key(
        "egress",
        EgressRules(requests=True),
        "Where it may connect to in the network, and what it may ask for there; nowhere else. Needs permission `full`.",
        [],
    ),
    Key("mcp", McpServers(), "MCP servers that the program is to use: started inside the sandbox, or reached there by their URL.", []),
    Key(
        "tools",
        Families(),
        "Which of Aegis's own tools it has: `core` to reach others, `children` to look after those it spawned; `fs`, `cmd` and `web`.",
        ["core"],
    ),
    Key(
        "tool_servers",
        ServerNames(),
        "MCP servers that the daemon uses for it, by their names under `tool_servers` or in `.mcp.json`; each call passes the gate.",
        [],
    ),
    Key(
        "security",
        k.Text("the name of a security context", k.NAME),
        "The security context that binds it, from `policies/`: it calls what that lists, and nothing else. Children are bound by it, too.",
    ),
    Key(
        "workspace",
        k.Text("a path"),
        "The directory shown as the workspace; relative to the project. Unset: whoever starts an instance says it.",
    ),
    Key(
        "mounts",
        k.Mounts(),
        "Further host paths shown inside, read-only unless `writable`; relative to the project; `~` is your home directory.",
        [],
    ),
    Key("limits.memory", k.Size(), "Memory of all processes of an instance together."),
    Key("limits.cpus", k.Number(), "Processors an instance may use at once, such as `1.5`."),
    Key("limits.pids", k.Whole(8, 4_194_304), "Processes and threads an instance may have."),
    Key(
        "limits.required",
        k.Flag(),
        "Refuse to start where one of these three limits cannot be enforced, instead of warning.",
        Limits().required,
    ),
    Key("limits.usd", Dollars(), "US dollars that an instance may spend with all it spawns. The least that any layer says counts."),
    Key("limits.tokens", k.Whole(1, MAX_TOKENS), "Tokens that it may use in the same way, of prompts and answers together."),
    Key("limits.output_tokens", k.Whole(1, MAX_TOKENS), "The same of answers alone."),
    Key("limits.rounds", k.Whole(1, 10_000), "Model calls in one turn.", _TURN.rounds),
    Key("limits.turn", k.Duration(), "How long one turn may take.", _TURN.turn_seconds),
    Key("limits.tool", k.Duration(), "How long one tool call may take.", _TURN.tool_seconds),
    Key(
        "context_tokens",
        k.Whole(1000, 10_000_000),
        "Tokens of conversation sent to the model; older parts are left out beyond it.",
        _TURN.context_tokens,
    ),
    Key("max_tokens", k.Whole(1, 1_000_000), "Tokens the model may write in one answer.", _TURN.max_tokens),
    Key(
        "secrets",
        k.Secrets(),
        "Secrets its work needs. `NAME` stays with the daemon, which uses it for the agent; `NAME:env` is shown to it as a variable.",
        [],
    ),
    Key(
        "env.VARIABLE",
        k.Text(limit=32_768),
        "An environment variable inside. Not for secrets: everybody who can read the file can read it.",
    ),
    Key("idle.pause", k.Duration(), "How long an instance is idle before its processes are frozen.", 60.0),
    Key("idle.stop", k.Duration(), "How long it then stays frozen before its sandbox is stopped.", 300.0),
    Key(
        "on_interrupt",
        k.Choice(("resume", "hold")),
        "After a crash of the daemon: go on with the turn that was cut short, or wait for the next message.",
        "resume",
    ),
    Key(
        "guard",
        k.Choice(("hold", "tell", "off")),
        "What becomes of files in the workspace that other programs of yours act on (git hooks, `.envrc`, `.mcp.json`): taken out until "
        "you agree (`aegis held`), only told, or nothing.",
        "hold",
    ),
    Key("spawn.depth", k.Whole(0, 8), "How many generations of agents it may start by itself, 0 for none.", _SPAWN.depth),
    Key("spawn.children", k.Whole(0, 1000), "How many agents and programs it may have started by itself at a time.", _SPAWN.children),
    Key("spawn.total", k.Whole(0, 10_000), "The same with all that those have started.", _SPAWN.total),
)

KEYS: Final = (
    Key("version", k.Whole(1, 1), "The version of this format.", 1),
    Key("default_agent", k.Text("the name of an agent", k.NAME), "The agent taken where none is named.", "agent"),
    *(Key(f"defaults.{key.name}", key.kind, key.meaning, key.default) for key in _AGENT),
    *(Key(f"agents.NAME.{key.name}", key.kind, key.meaning) for key in _AGENT),
    Key("agents.NAME.system", k.Text(limit=262_144), "The system prompt."),
    Key(
        "agents.NAME.system_file",
        k.Text("a file name"),
        "A `.md` or `.txt` file with the system prompt, relative to `.aegis/` (user layer: `config/` in the home).",
    ),
    Key("models.NAME.model", k.Text("`provider/model`", k.MODEL), "What the alias stands for, as `provider/model`."),
    Key("providers.PROVIDER.base_url", k.Text("an http or https address without user name", _URL), "Where the provider is."),
    Key(
        "providers.PROVIDER.dialect",
        k.Choice(get_args(Dialect)),
        "How to speak to it: Anthropic Messages, OpenAI Chat Completions, OpenAI Responses, or Gemini.",
    ),
    Key("providers.PROVIDER.secret", k.Text("the name of a secret", k.VARIABLE), "The secret that is sent to it as its key. Unset: none."),
    Key("tool_servers.NAME.command", Words(), "What starts the MCP server, in a sandbox of its own for each agent that uses it."),
    Key("tool_servers.NAME.env.VARIABLE", k.Text(limit=32_768), "An environment variable of the command. Not for secrets."),
    Key(
        "tool_servers.NAME.secrets",
        k.Secrets(),
        "Secrets of the server: `NAME` stays with the daemon, `NAME:env` is shown to the command as a variable.",
    ),
    Key(
        "tool_servers.NAME.url",
        k.Text("an http or https address without user name", _URL),
        "Where the MCP server is.",
    ),
    Key(
        "tool_servers.NAME.headers",
        Headers(),
        "Headers of each request to the `url`. Secrets are put in at the last moment.",
    ),
    Key(
        "tool_servers.NAME.egress",
        EgressRules(),
        "Where the command may connect to; nowhere without. For a `url`: the private addresses that it may lead to.",
    ),
    Key(
        "tool_servers.NAME.workspace",
        k.Choice(("none", "read", "write")),
        "What it sees of the agent's workspace; nothing without.",
    ),
    Key("tool_servers.NAME.mounts", k.Mounts(), "Further host paths shown to the command, such as where its program is."),
    Key(
        "tool_servers.NAME.sandbox",
        k.Choice(get_args(SandboxName)),
        "What isolates the command. `process` is no boundary. Unset: the strongest one that works here.",
    ),
    Key("tool_servers.NAME.timeout", k.Duration(), "How long one call of a tool may take; 60 seconds without."),
    Key(
        "programs.PROVIDER.path",
        k.Text("an absolute path"),
        "Where the program of a provider is, if it is not on PATH. Only in the home: a project cannot say what is run.",
    ),
    Key("notify.on", Notices(), "What you are told of. All `notify` keys: only in the home.", list(NOTICES)),
    Key("notify.bell", k.Flag(), "`aegis watch` and `aegis chat` ring the terminal's bell.", True),
    Key("notify.desktop", k.Flag(), "Show a notification on the desktop, by `notify-send`.", False),
    Key(
        "notify.command",
        Argv(),
        "A program of yours that is run for each notice, without a shell; it gets the facts as JSON on standard input.",
        [],
    ),
    Key("notify.quiet", QuietHours(), "Hours of your time zone in which you are not told; what came is summed up afterwards.", []),
    Key("notify.again", k.Duration(zero=True), "For how long the same of the same instance is not told again.", 600.0),
    Key(
        "web.search_url",
        k.Text("an http or https address without user name", _URL),
        "Where `web.search` asks, as Brave's search API is asked. Both `web` keys: only in the home.",
        "https://api.search.brave.com/res/v1/web/search",
    ),
    Key("web.search_secret", k.Text("the name of a secret", k.VARIABLE), "The secret that is its key. Unset: there is no `web.search`."),
    Key(
        "budgets.NAME.scope",
        k.Choice(SCOPES),
        "What is added up: all of the home, a project, all instances of an agent, each instance with all it spawned, or each conversation. "
        "Unset: the project that declares it, or the home.",
    ),
    Key("budgets.NAME.agent", k.Text("the name of an agent", k.NAME), "Only for this agent. Unset: for each one by itself."),
    Key("budgets.NAME.project", k.Text("a path"), "Only for this project, by its directory. Unset: for each one by itself."),
    Key("budgets.NAME.usd", Dollars(), "US dollars that may be spent."),
    Key("budgets.NAME.tokens", k.Whole(1, MAX_TOKENS), "Tokens that may be used, of prompts and answers together; cached ones count once."),
    Key("budgets.NAME.output_tokens", k.Whole(1, MAX_TOKENS), "Tokens that models may write."),
    Key("budgets.NAME.window", k.Duration(), "In what time, such as `5h` or `7d`; it rolls. Unset: ever."),
    Key("budgets.NAME.warn", Share(), "At what part of it you are told; `0.8` when unset."),
    Key(
        "budgets.NAME.unpriced",
        k.Choice(("dearest", "refuse")),
        "Calls of a model whose price is not known, where dollars are bounded: they count at the dearest known price (`dearest`, also when "
        "unset), or are refused.",
    ),
)

#: A branch of the tree of keys: by segment, a deeper branch or the key itself.
Tree = dict[str, "Tree | Key"]


def _tree() -> Tree:
    root: Tree = {}
    for key in KEYS:
        branch = root
        *path, leaf = key.parts
        for part in path:
            deeper = branch.setdefault(part, {})
            assert isinstance(deeper, dict), key.name
            branch = deeper
        branch[leaf] = key
    return root


TREE: Final = _tree()
#: Parts of a name that stand for any name of a shape. The first two name entries, which are declared even when they say nothing.
PLACEHOLDERS: Final = {"NAME": k.NAME, "PROVIDER": k.PROVIDER, "VARIABLE": k.VARIABLE}
ENTRIES: Final = ("NAME", "PROVIDER")


def find(name: str) -> Key | None:
    """The key that a concrete dotted name such as `agents.reviewer.model` is a case of."""
    branch: Tree | Key = TREE
    for part in name.split("."):
        if isinstance(branch, Key):
            return None
        deeper = branch.get(part)
        if deeper is None:
            for placeholder, pattern in PLACEHOLDERS.items():
                if placeholder in branch and pattern.fullmatch(part):
                    deeper = branch[placeholder]
        if deeper is None:
            return None
        branch = deeper
    return branch if isinstance(branch, Key) else None
