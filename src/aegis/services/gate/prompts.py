"""What a program may do that asks for leave first: the rules that answer it without a person.

The sandbox's mounts and its missing network are what holds; these answers only follow the same rules, so that a model hears a
reason instead of running into a wall. Where a person wants to be asked, a program's own word that a tool only looks does not
spare that. The input of a tool is not looked at here: the rules of the gate see it, parsed (`calls`), before these answers are given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from aegis.drivers import Answer

if TYPE_CHECKING:
    from aegis.core.events import ToolKind
    from aegis.drivers import Asked, Permission
    from aegis.services.gate import Gate
    from aegis.services.gate.model import Decision

__all__ = ["EGRESS", "NOBODY", "READ_ONLY", "RULES", "UNASKED", "Rule", "asking_rules", "judge", "own_verb", "written_by_a_person"]

#: How programs name the tools of an MCP server: what stands before the tool's own name when the server is Aegis's, which no other
#: server may be called like.
_PREFIXES: Final = ("mcp__aegis__", "mcp_aegis_", "aegis__", "aegis_", "aegis/", "aegis.")
#: Aegis's own verbs that no person is asked about, even one who wants to be: they only look, or write to an agent that is held to the
#: same rules as the one that writes. The others start or end agents.
UNASKED: Final = frozenset(
    {
        "aegis_meta",
        "aegis_list_sessions",
        "aegis_list_agents",
        "aegis_handoff",
        "aegis_read_mail",
        "aegis_status",
        "aegis_peer_transcript",
        "aegis_await",
        "aegis_children",
    }
)

#: What the model is told with a no.
READ_ONLY: Final = "the workspace is read-only for you: read it, and say what you would change"
EGRESS: Final = "there is no way to the outside from here: work with what is in the workspace"
NOBODY: Final = "nobody is there to answer; decide yourself"

Word = Literal["yes", "no", "egress"]


class Rule(NamedTuple):
    """What counts for one kind of tool: with permission `read`, with a greater one, and whether a person is asked who wants to be.

    `egress` means yes where the instance has a way to the outside, else no.
    """

    read: Word
    more: Word
    person: bool


RULES: Final[dict[ToolKind, Rule]] = {
    "read": Rule("yes", "yes", person=False),
    "search": Rule("yes", "yes", person=False),
    "think": Rule("yes", "yes", person=False),
    "edit": Rule("no", "yes", person=True),
    "delete": Rule("no", "yes", person=True),
    "move": Rule("no", "yes", person=True),
    "execute": Rule("yes", "yes", person=True),
    "switch_mode": Rule("yes", "yes", person=True),
    "other": Rule("yes", "yes", person=True),
    "fetch": Rule("egress", "egress", person=True),
}


def own_verb(request: Asked) -> str | None:
    """The verb of Aegis's own MCP server that a program asks leave for, by what it calls the tool; None for any other tool.

    What runs, changes or fetches something in the sandbox is none, whatever it is called: some programs tell of a command by its text.
    """
    if request.question or request.kind in ("edit", "delete", "move", "execute", "fetch"):
        return None
    for prefix in _PREFIXES:
        name = request.tool.removeprefix(prefix)
        if name != request.tool and name.startswith("aegis_"):
            return name
    return None


def written_by_a_person(decision: Decision) -> bool:
    """Whether it was allowed by a rule of a file. Those that are built in do not count, nor what a security context is held to."""
    return decision.allow and any(not ident.startswith(("aegis.", "aegis/", "security:")) for ident in decision.policies)


def asking_rules(gate: Gate, decision: Decision) -> list[str]:
    """The rules that have a person asked, among those that decided."""
    if not decision.ask:
        return []
    asking = {rule.id for layer in gate.policies.known() for rule in layer.rules if rule.ask is not None}
    return [ident for ident in decision.policies if ident in asking] or list(decision.policies)


def judge(request: Asked, *, permission: Permission, approvals: str, egress: bool) -> Answer | None:
    """The answer that the rules give to a request; None when a person must be asked.

    Args:
        request: what the program asks.
        permission: that of the instance.
        approvals: `auto`, the rules answer everything; `ask`, a person answers what they would allow, but for looking and thinking.
        egress: whether the instance has a way to the outside.
    """
    asks = approvals == "ask"
    if (own := own_verb(request)) is not None:  # the gate sees each call of it anyway
        return None if asks and own not in UNASKED else Answer(allow=True)
    if request.question:
        return None if asks else Answer(allow=False, reason=NOBODY)
    rule = RULES.get(request.kind, RULES["other"])
    word = rule.read if permission == "read" else rule.more
    if word == "no":
        return Answer(allow=False, reason=READ_ONLY)
    if word == "egress" and not egress:
        return Answer(allow=False, reason=EGRESS)
    return None if asks and (rule.person or request.claimed) else Answer(allow=True)
