"""What the rules answer, for every kind of tool, permission and setting."""

from __future__ import annotations

import typing
from itertools import product

import pytest

from aegis.core.events import ToolKind
from aegis.drivers import Answer, Asked, Permission
from aegis.services.gate.prompts import EGRESS, NOBODY, READ_ONLY, RULES, judge

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
