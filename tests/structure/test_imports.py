"""A file imports only from its own part or from the parts that `house` grants it."""

from __future__ import annotations

import sys

import pytest
from tests.structure.house import CORE_FOREIGN, FACADE, MAY_IMPORT, PORT_FACES, STANDARD_LIBRARY_ONLY, Module, imports, modules

EVERY = [pytest.param(module, id=module.path) for module in modules()]


@pytest.mark.parametrize("module", EVERY)
def test_import_contract(module: Module) -> None:
    if module.name in FACADE:
        allowed = FACADE[module.name]
    else:
        assert module.part in MAY_IMPORT, f"{module.path}: no part `{module.part}` in tests/structure/house.py"
        allowed = MAY_IMPORT[module.part] | {module.part}
    wrong = [
        f"{module.path}:{found.line} imports {found.module}"
        for found in imports(module)
        if found.module.startswith("aegis.") and found.module.split(".")[1] not in allowed
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("module", [p for p in EVERY if p.values[0].part in STANDARD_LIBRARY_ONLY | {"core"}])  # type: ignore[union-attr]
def test_foreign_packages_stay_out_of_the_foundation(module: Module) -> None:
    allowed = sys.stdlib_module_names | {"aegis"} | (CORE_FOREIGN if module.part == "core" else frozenset())
    wrong = [f"{module.path}:{found.line} imports {found.module}" for found in imports(module) if found.module.split(".")[0] not in allowed]
    assert not wrong, wrong


@pytest.mark.parametrize("module", [p for p in EVERY if p.values[0].part == "services"])  # type: ignore[union-attr]
def test_services_know_a_port_and_not_its_kinds(module: Module) -> None:
    ports = ("aegis.sandboxes", "aegis.drivers", "aegis.models", "aegis.vaults")
    wrong = [
        f"{module.path}:{found.line} imports {found.module}"
        for found in imports(module)
        if found.module.startswith(ports) and found.module not in PORT_FACES
    ]
    assert not wrong, wrong


def test_no_two_services_import_each_other() -> None:
    edges = {
        (module.name.split(".")[2], found.module.split(".")[2])
        for module in modules()
        if module.part == "services" and module.name.count(".") >= 2
        for found in imports(module)
        if found.module.startswith("aegis.services.")
    }
    assert not [(a, b) for a, b in edges if a < b and (b, a) in edges]


def test_the_contract_bites() -> None:
    by_part = {module.part for module in modules()}
    assert {"core", "tether", "guest", "services", "cli"} <= by_part
    assert any(found.typing_only for module in modules() for found in imports(module))
