"""What the rules answer, for every kind of tool, permission and setting."""

from __future__ import annotations

import typing
from itertools import product

import pytest

from aegis.core.events import ToolKind
from aegis.drivers import Answer, Asked, Permission
from aegis.services.gate.prompts import EGRESS, NOBODY, READ_ONLY, RULES, UNASKED, judge, own_verb

KINDS: tuple[ToolKind, ...] = typing.get_args(ToolKind)
PERMISSIONS: tuple[Permission, ...] = typing.get_args(Permission)
CHANGES = {"edit", "delete", "move"}
LOOKS = {"read", "search", "think"}


def _asked(kind: ToolKind = "other", *, question: bool = False) -> Asked:
    return Asked(id="1", tool="T", input={}, kind=kind, question=question)


def test_there_is_a_rule_for_every_kind() -> None:
    assert set(RULES) == set(KINDS)


@pytest.mark.parametrize(("kind", "permission", "egress"), list(product(KINDS, PERMISSIONS, (False, True))))
def test_alone_the_rules_answer_everything(kind: ToolKind, permission: Permission, egress: bool) -> None:
    answer = judge(_asked(kind), permission=permission, approvals="auto", egress=egress)
    if kind in CHANGES and permission == "read":
        assert answer == Answer(allow=False, reason=READ_ONLY)
    elif kind == "fetch" and not egress:
        assert answer == Answer(allow=False, reason=EGRESS)
    else:
        assert answer == Answer(allow=True)


@pytest.mark.parametrize(("kind", "permission", "egress"), list(product(KINDS, PERMISSIONS, (False, True))))
def test_a_person_is_asked_for_what_the_rules_allow_and_never_for_what_they_refuse(
    kind: ToolKind, permission: Permission, egress: bool
) -> None:
    alone = judge(_asked(kind), permission=permission, approvals="auto", egress=egress)
    asking = judge(_asked(kind), permission=permission, approvals="ask", egress=egress)
    assert alone is not None
    if not alone.allow or kind in LOOKS:
        assert asking == alone
    else:
        assert asking is None


@pytest.mark.parametrize(("kind", "permission"), list(product(KINDS, PERMISSIONS)))
def test_no_rule_answers_a_question(kind: ToolKind, permission: Permission) -> None:
    asked = _asked(kind, question=True)
    assert judge(asked, permission=permission, approvals="ask", egress=True) is None
    assert judge(asked, permission=permission, approvals="auto", egress=True) == Answer(allow=False, reason=NOBODY)


@pytest.mark.parametrize("prefix", ["mcp__aegis__", "mcp_aegis_", "aegis_", "aegis__", "aegis/", "aegis."])
def test_aegis_own_tools_by_what_programs_call_them(prefix: str) -> None:
    for verb in (*UNASKED, "aegis_spawn", "aegis_close"):
        asked = Asked(id="1", tool=f"{prefix}{verb}", input={}, claimed=True)
        assert own_verb(asked) == verb
        for permission in PERMISSIONS:
            assert judge(asked, permission=permission, approvals="auto", egress=False) == Answer(allow=True)
            asking = judge(asked, permission=permission, approvals="ask", egress=False)
            assert asking == (Answer(allow=True) if verb in UNASKED else None), verb


@pytest.mark.parametrize(
    "tool", ["aegis_handoff", "mcp__aegis2__aegis_meta", "mcp__other__aegis_meta", "aegis", "Bash", "mcp_aegis_meta", "xaegis_aegis_meta"]
)
def test_a_tool_of_another_server_is_not_aegis_own(tool: str) -> None:
    assert own_verb(Asked(id="1", tool=tool, input={})) is None


@pytest.mark.parametrize("kind", ["execute", "edit", "delete", "move", "fetch"])
def test_a_command_cannot_call_itself_a_tool_of_aegis(kind: ToolKind) -> None:
    asked = Asked(id="1", tool="aegis_aegis_status", input={}, kind=kind, claimed=True)
    assert own_verb(asked) is None
    assert judge(asked, permission="write", approvals="ask", egress=True) is None
