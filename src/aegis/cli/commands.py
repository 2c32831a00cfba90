"""The table of verbs. To add one: a row here, a function in a module of its noun, its help in `tests/golden/cli`."""

from __future__ import annotations

import click

from aegis.cli.verbs import Row, Table

_BEGIN, _TALK, _WATCH, _RUN, _DAEMON = "To begin", "Talking to an agent", "Watching", "Running a command", "The daemon"

INSTANCE = Table(
    "instance",
    "Live agents: start, list, pause, delete.",
    {
        "start": Row("instance", "start", "Start an instance of an agent, or of a program."),
        "list": Row("instance", "show_list", "List the instances."),
        "info": Row("instance", "info", "Show all about one instance."),
        "pause": Row("instance", "pause", "Freeze instances; their memory stays."),
        "resume": Row("instance", "resume", "Let paused instances go on."),
        "restart": Row("instance", "restart", "Stop the sandbox and start a new one; conversations go on."),
        "disable": Row("instance", "disable", "Stop instances and keep messages from waking them."),
        "delete": Row("instance", "delete", "Stop instances and forget all they kept."),
    },
)
SECRET = Table(
    "secret",
    "Keys and passwords, which go in and never come out.",
    {
        "set": Row("secret", "set_", "Store a secret."),
        "list": Row("secret", "list_", "List the names of the secrets."),
        "show": Row("secret", "show", "Show all about a secret but its value."),
        "versions": Row("secret", "versions", "List the values that a secret has and had."),
        "rollback": Row("secret", "rollback", "Make an earlier value the present one again."),
        "grant": Row("secret", "grant", "Let an agent or a project use a secret, and nobody else."),
        "revoke": Row("secret", "revoke", "Take a grant back."),
        "rotate-key": Row("secret", "rotate_key", "Protect all secrets by a new master key."),
        "delete": Row("secret", "delete", "Forget secrets."),
    },
)
AGENT = Table(
    "agent",
    "Definitions of agents.",
    {
        "list": Row("agent", "agent_list", "List the agents that can be started here."),
        "show": Row("agent", "agent_show", "Show one definition."),
        "add": Row("agent", "agent_add", "Declare an agent."),
        "set": Row("agent", "agent_set", "Change one key of a declared agent."),
        "remove": Row("agent", "agent_remove", "Take the declaration of an agent away."),
    },
)
CONFIG = Table(
    "config",
    "The configuration in force, and trust in a project.",
    {
        "show": Row("config", "show", "Show every key with its value and where it comes from."),
        "explain": Row("config", "explain", "Say where the value of one key comes from."),
        "trust": Row("config", "trust", "Let the declarations of a project take effect."),
    },
)
POLICY = Table(
    "policy",
    "The rules of who may do what.",
    {
        "list": Row("policy", "list_", "List the rules in force."),
        "show": Row("policy", "show", "Show one rule, the schema, or the rules that are built in."),
        "check": Row("policy", "check", "Say whether a file of rules can be read."),
        "test": Row("policy", "test", "Ask the rules in force the cases of a file, and compare."),
        "explain": Row("policy", "explain", "Say what the rules say to an action, which ones, and what would change it."),
        "simulate": Row("policy", "simulate", "Ask other rules what was asked before."),
        "draft": Row("policy", "draft", "Write the narrowest rules for what was denied."),
    },
)
EGRESS = Table(
    "egress",
    "What agents reach outside, and what they may.",
    {
        "log": Row("egress", "log", "List the connections that were asked for, and the requests where they are looked at."),
        "check": Row("egress", "check", "Say whether an instance may connect to a place, or ask for a URL, and why."),
    },
)
APPROVALS = Table(
    "approvals",
    "What agents ask leave for, and your answers.",
    {
        "list": Row("approvals", "list_", "List what agents ask leave for."),
        "show": Row("approvals", "show", "Show one request with all it is about."),
        "approve": Row("approvals", "approve", "Say yes to what agents ask leave for."),
        "reject": Row("approvals", "reject", "Say no to what agents ask leave for."),
        "edit": Row("approvals", "edit", "Say yes to something else in place of what a tool was to be given."),
        "escalate": Row("approvals", "escalate", "Have people told of a request again, and put its deadline off."),
    },
)
BUDGET = Table(
    "budget",
    "What agents may spend, in dollars and tokens, and what they did.",
    {
        "list": Row("budget", "list_", "List the budgets, what was spent of each, and when it frees."),
        "show": Row("budget", "show", "Show one budget with all the places it counts in."),
        "set": Row("budget", "set_", "Set a budget, or another value of one that there is."),
        "remove": Row("budget", "remove", "Take away a budget that was set by hand."),
    },
)
ATTENTION = Table(
    "attention",
    "What you are told: that an agent needs you, is done, failed, is stuck.",
    {
        "list": Row("attention", "list_", "List what you were told."),
        "test": Row("attention", "test", "Try how you would be told."),
    },
)
HELD = Table(
    "held",
    "What agents left in a workspace for your git, editor or shell to run.",
    {
        "list": Row("held", "list_", "List what was put aside."),
        "show": Row("held", "show", "Show one: what it is, and what it would change."),
        "release": Row("held", "release", "Put back where they were."),
        "drop": Row("held", "drop", "Remove for good."),
        "look": Row("held", "look", "Look at the workspace of an instance now."),
    },
)
SESSION = Table(
    "session",
    "Conversations of an instance: what each runs with, and copies.",
    {
        "list": Row("session", "list_", "List the conversations of an instance."),
        "set": Row("session", "set_", "Change what a conversation runs with."),
        "fork": Row("session", "fork", "Begin a conversation as a copy of another."),
    },
)
MCP = Table(
    "mcp",
    "Aegis for your own agent programs, as an MCP server.",
    {
        "install": Row("mcp", "install", "Tell your agent programs of Aegis."),
        "uninstall": Row("mcp", "uninstall", "Take Aegis out of your agent programs again."),
        "serve": Row("mcp", "serve", "Be an MCP server on standard input and output."),
    },
)
TOOLS = Table(
    "tools",
    "What agents can call, and the MCP servers behind it.",
    {
        "list": Row("tools", "list_", "List tools."),
        "show": Row("tools", "show", "Show one tool."),
        "call": Row("tools", "call", "Call a tool yourself."),
        "servers": Row("tools", "servers", "List the declared MCP servers, and how each is."),
        "pin": Row("tools", "pin", "Accept the tools of an MCP server as it defines them now."),
        "trust": Row("tools", "trust", "Let a server of the project's `.mcp.json` be used."),
    },
)
INBOX = Table(
    "inbox",
    "Mailboxes: messages, how far each came, dead letters.",
    {
        "list": Row("inbox", "list_", "List messages to an agent, or to all, and how far each came."),
        "show": Row("inbox", "show", "Show one message and what became of it."),
        "retry": Row("inbox", "retry", "Put a dead letter back."),
        "drop": Row("inbox", "drop", "End a message that waits."),
    },
)
AUDIT = Table(
    "audit",
    "The record of what was allowed and done.",
    {
        "list": Row("audit", "list_", "List the records."),
        "show": Row("audit", "show", "Show one record with all that is in it."),
        "verify": Row("audit", "verify", "Say whether the record is what was written."),
        "export": Row("audit", "export", "Write the record to a file that can be verified anywhere."),
    },
)

ROOT = Table(
    "aegis",
    "Run AI agents on your own machine, each in its own sandbox: Claude Code, Gemini CLI, OpenCode, Aegis's own, or one that you "
    "describe.\n\n"
    "First steps: `aegis doctor`, `aegis agent add NAME`, `aegis instance start NAME`, `aegis chat HANDLE`; `aegis demo` needs nothing at "
    "all. The daemon is started by the first verb that needs it.\n\n"
    "Exit codes: 0 ok, 1 the work failed, 2 usage, 3 not found, 4 denied, 5 a limit or budget, 6 timeout, 7 no daemon, 130 interrupted.",
    {
        "doctor": Row("daemon", "doctor", "Examine this machine and say what to mend.", _BEGIN),
        "demo": Row("demo", "demo", "Show the main job: an agent in a sandbox mends a real repository while its daemon is killed.", _BEGIN),
        "completion": Row("completion", "completion", "Print the completion script of a shell.", _BEGIN),
        "chat": Row("chat", "chat", "Talk with an agent, line by line.", _TALK),
        "send": Row("talk", "send", "Send a message.", _TALK),
        "handoff": Row("inbox", "handoff", "Hand work over to an agent.", _TALK),
        "cancel": Row("talk", "cancel", "Cut the turn that runs.", _TALK),
        "read": Row("talk", "read", "Read what came back.", _TALK),
        "transcript": Row("talk", "transcript", "Show a whole conversation.", _TALK),
        "watch": Row("watching", "watch", "Watch agents at work.", _WATCH),
        "ls": Row("instance", "show_list", "List the instances.", _WATCH),
        "tree": Row("tree", "tree", "Show who spawned whom, with state and cost.", _WATCH),
        "ps": Row("watch", "ps", "Show what each instance uses.", _WATCH),
        "stats": Row("stats", "stats", "Show what agents used: tokens, money, tools, time.", _WATCH),
        "logs": Row("watch", "logs", "Show what the programs of an instance wrote.", _WATCH),
        "events": Row("watch", "events", "Show what happened.", _WATCH),
        "acp": Row("acp", "acp", "Be an agent for an editor, on standard input and output.", _TALK),
        "exec": Row("execute", "exec_", "Run a command in an instance.", _RUN),
        "run": Row("execute", "run", "Run a command in a sandbox made for it.", _RUN),
        "up": Row("daemon", "up", "Start the daemon.", _DAEMON),
        "down": Row("daemon", "down", "Stop the daemon and every instance.", _DAEMON),
        "status": Row("daemon", "status", "Say whether the daemon runs, and what it holds.", _DAEMON),
        "backup": Row("daemon", "backup", "Write a copy of the database to a file.", _DAEMON),
        "serve": Row("daemon", "serve", "Run the daemon in the foreground.", _DAEMON),
    },
    {
        "agent": AGENT,
        "instance": INSTANCE,
        "session": SESSION,
        "inbox": INBOX,
        "approvals": APPROVALS,
        "attention": ATTENTION,
        "budget": BUDGET,
        "held": HELD,
        "policy": POLICY,
        "egress": EGRESS,
        "secret": SECRET,
        "config": CONFIG,
        "audit": AUDIT,
        "mcp": MCP,
        "tools": TOOLS,
    },
)


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from aegis.core.version import __version__

        ctx.obj.say(f"aegis {__version__}")
        ctx.exit()


ROOT.params.append(
    click.Option(["--version", "-V"], is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the version.")
)
