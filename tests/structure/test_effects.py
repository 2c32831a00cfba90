"""Where programs are started, where the environment is read, where something is printed: at the listed places and nowhere else."""

from __future__ import annotations

import ast

import pytest
from tests.structure.house import ENVIRONMENT_READERS, OUTPUT_SITES, SPAWN_SITES, SRC, Module, modules, uses

from aegis.core import faults

EVERY = [pytest.param(module, id=module.path) for module in modules()]
_SPAWNERS = frozenset(
    {
        "system",
        "popen",
        "fork",
        "forkpty",
        "posix_spawn",
        "posix_spawnp",
        "execv",
        "execve",
        "execvp",
        "execvpe",
        "execl",
        "execle",
        "execlp",
    }
)


def spawns(module: Module) -> bool:
    asynchronous = frozenset({"create_subprocess_exec", "create_subprocess_shell"})
    return bool(uses(module, "subprocess") or uses(module, "os", _SPAWNERS) or uses(module, "asyncio", asynchronous) or uses(module, "pty"))


def test_programs_are_started_at_the_listed_places() -> None:
    assert {module.path for module in modules() if spawns(module)} == SPAWN_SITES


def test_the_environment_is_read_at_the_listed_places() -> None:
    names = frozenset({"environ", "environb", "getenv", "getenvb"})
    assert {module.path for module in modules() if uses(module, "os", names)} == ENVIRONMENT_READERS


@pytest.mark.parametrize("module", EVERY)
def test_no_print_and_no_shell(module: Module) -> None:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"pprint.pprint", "breakpoint", "eval", "exec"}, f"{module.path}:{node.lineno} calls {called}"
            assert called != "print" or module.path in OUTPUT_SITES, f"{module.path}:{node.lineno} prints"
            shell = [k for k in node.keywords if k.arg == "shell" and not (isinstance(k.value, ast.Constant) and k.value.value is False)]
            assert not shell, f"{module.path}:{node.lineno} goes through a shell"


def test_one_output_funnel() -> None:
    """Only the funnel of the command line writes to the standard streams, because only it makes text safe to show."""
    writers = {
        module.path
        for module in modules()
        if module.part in {"cli", "client", "services", "daemon"}
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("sys.stdout", "sys.stderr", "click.echo", "click.secho"))
    }
    assert writers <= OUTPUT_SITES


def test_every_fault_point_is_in_the_source_and_every_one_in_the_source_is_listed() -> None:
    found: dict[str, list[str]] = {}
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"point", "faults.point"}:
                assert len(node.args) == 1, f"{module.path}:{node.lineno}"
                assert isinstance(node.args[0], ast.Constant), f"{module.path}:{node.lineno}: a fault point has a literal name"
                found.setdefault(str(node.args[0].value), []).append(f"{module.path}:{node.lineno}")
    assert sorted(found) == sorted(faults.POINTS)


def test_the_sources_were_found() -> None:
    assert (SRC / "aegis" / "core" / "errors.py").exists()
    assert len(modules()) > 50
