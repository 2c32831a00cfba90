"""What budgets need to know of the rest: what is declared, who makes a call, whether its model costs money."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from aegis.core.errors import AegisError
from aegis.services.agents import sessions
from aegis.services.budgets import Budget, Lineage

if TYPE_CHECKING:
    from aegis.daemon.models import Models
    from aegis.services.agents.registry import Registry
    from aegis.services.config import Config
    from aegis.services.config.model import BudgetDefinition
    from aegis.store import Store

_log = logging.getLogger(__name__)


class Purses:
    """Looks up for `Budgets` what files and launches say."""

    def __init__(self, config: Config, registry: Registry, models: Models, store: Store) -> None:
        self._config = config
        self._registry = registry
        self._models = models
        self._store = store
        self._known: dict[str, list[Budget]] = {}  # by project: what was read last, when it could be

    def declared(self) -> list[Budget]:
        """The budgets of the home, of the projects of all instances, of launches. Raises AegisError for a wrong file of the home."""
        found = [budget_of(each) for each in self._config.budgets(None)]
        instances = self._registry.all()
        for project in sorted({i.launch.project for i in instances if i.launch.project is not None}):
            found += self._of_project(project)
        for instance in instances:
            bound = instance.launch.budget
            if bound.bounds:
                found.append(
                    Budget(
                        name=f"@{instance.handle}",
                        scope="instance",
                        instance=instance.id,
                        source="its launch",
                        **msgspec.structs.asdict(bound),
                    )
                )
        return found

    def _of_project(self, project: str) -> list[Budget]:
        """Those of a project. While its files are wrong or not trusted, the last ones that were in force stay so."""
        try:
            self._known[project] = [budget_of(each) for each in self._config.budgets(Path(project))]
        except AegisError as error:
            if project not in self._known:
                _log.warning("the budgets of %s are not in force: %s", project, error.message)
                self._known[project] = []
        return self._known[project]

    def lineage(self, ident: str, session: str | None) -> list[Lineage]:
        """An instance and those that spawned it; the conversation of a parent is the one that the child was spawned in."""
        found: list[Lineage] = []
        instance = self._registry.find(ident)
        while instance is not None:
            found.append(Lineage(instance.id, instance.launch.agent, instance.launch.project, session))
            session = instance.launch.origin
            instance = self._registry.find(instance.parent) if instance.parent is not None else None
        return found

    def free(self, ident: str, session: str) -> bool:
        """Whether the model of a session costs no money."""
        instance = self._registry.find(ident)
        return instance is not None and self._models.free(instance, sessions.row(self._store, ident, session).model)


def budget_of(definition: BudgetDefinition) -> Budget:
    """A declared budget under its full name."""
    fields = msgspec.structs.asdict(definition)
    project = fields.pop("declared_in")
    return Budget(**(fields | ({"name": f"{definition.name}@{project}"} if project is not None else {})))
