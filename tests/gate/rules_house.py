"""A gate with rules in a folder, and one instance that is whatever a test says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aegis.core.clock import ManualClock
from aegis.core.principals import Principal, PrincipalKind
from aegis.services.config.model import RuleFiles
from aegis.services.gate import Decision, Effect, Facet, Gate
from aegis.services.gate.entities import UNKNOWN

OWNER = Principal(PrincipalKind.PERSON, "me")
CODER = Principal(PrincipalKind.INSTANCE, "inst_coder")
CHILD = Principal(PrincipalKind.INSTANCE, "inst_child")


class House:
    """The gate, its folder of rules, and the facts of instances by id and handle."""

    def __init__(self, gate: Gate, clock: ManualClock, folder: Path) -> None:
        self.gate = gate
        self.clock = clock
        self.folder = folder
        self.known: dict[str, Mapping[str, Any]] = {}
        self.above: dict[str, list[str]] = {}
        self.projects: dict[str, RuleFiles] = {}
        gate.policies.folder = folder
        gate.policies.projects = self.projects.get
        gate.facts = self.known.get
        gate.judge.ancestors = lambda ident: self.above.get(ident, [])
        self.have(CODER)

    def have(self, who: Principal, **facts: Any) -> None:
        """Let an instance be so."""
        handle = who.id.removeprefix("inst_")
        self.known[who.id] = self.known[handle] = {**UNKNOWN, "handle": handle, "agent": handle, "tools": ("fs", "cmd"), **facts}

    def rules(self, text: str, name: str = "rules.cedar") -> None:
        """Write a file of rules and have it looked at."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / name).write_text(text, encoding="utf-8")
        self.look()

    def look(self) -> None:
        for project in ("", *self.projects):
            self.gate.policies.refresh(project)

    @property
    def problem(self) -> str:
        """What is wrong with the home's rules; empty when nothing is."""
        return self.gate.policies.layers()[0].problem or ""

    def ask(self, action: str = "tool.call", resource: str = "cmd.run", *facets: Facet, who: Principal = CODER, **call: Any) -> Decision:
        """What the gate says to a call that touches these."""
        effect = Effect(tool=resource, facets=facets, **call) if facets or call else None
        return self.gate.decide(who, action, resource, effect=effect)
