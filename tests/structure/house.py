"""The rules of the house in one place: which part may import which, and where the effects are."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src"

_PORTS = frozenset({"sandboxes", "drivers", "models", "vaults"})

#: What each part may import besides itself.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "core": frozenset(),
    "tether": frozenset(),
    "guest": frozenset({"tether"}),
    "store": frozenset({"core"}),
    **{port: frozenset({"core", "tether", "guest", "sandboxes"}) for port in _PORTS},
    "services": frozenset({"core", "tether", "store", *_PORTS}),
    "daemon": frozenset({"core", "tether", "store", "services", *_PORTS}),
    "client": frozenset({"core"}),
    "cli": frozenset({"core", "client"}),
}
#: Modules that stand above the parts: the names a user's own Python imports, and `python -m aegis`.
FACADE: dict[str, frozenset[str]] = {"aegis": frozenset({"client", "core"}), "aegis.__main__": frozenset({"cli"})}

#: Parts that may import nothing but the standard library and what `MAY_IMPORT` grants them.
STANDARD_LIBRARY_ONLY = frozenset({"tether", "guest"})
#: The only foreign module of core.
CORE_FOREIGN = frozenset({"msgspec"})

#: A service sees these modules of a port: the protocol, and the tools that do not depend on a kind.
PORT_FACES = frozenset(
    {
        "aegis.sandboxes",
        "aegis.sandboxes.link",
        "aegis.drivers",
        "aegis.drivers.login",
        "aegis.models",
        "aegis.models.errors",
        "aegis.models.http",
        "aegis.models.names",
        "aegis.models.prices",
        "aegis.models.usage",
        "aegis.vaults",
        "aegis.vaults.keyfile",
    }
)

#: Files that may start a program or replace themselves by one, by way of anything at all.
SPAWN_SITES = frozenset(
    {
        "cli/daemon.py",  # `aegis serve` becomes the daemon
        "cli/demo.py",  # git, for the demo's repository
        "client/launch.py",  # the daemon
        "drivers/programs.py",  # an agent program of others, to ask for its version
        "guest/agent/mcp/stdio.py",  # the MCP servers that the native agent uses, inside the sandbox
        "guest/agent/tools/children.py",  # the native agent's tools, inside the sandbox
        "guest/agent/tools/shell.py",
        "guest/command.py",  # becomes the command of `cmd.run`, inside the sandbox
        "guest/fork.py",  # the agent, in a copy of the guest
        "guest/programs.py",  # what the daemon asks the guest to run, inside the sandbox
        "sandboxes/bwrap/kind.py",  # bwrap, to ask for its version
        "sandboxes/bwrap/sandbox.py",
        "sandboxes/bwrap/stage.py",
        "sandboxes/conformance/life.py",  # processes that the suite must see die
        "sandboxes/process.py",
        "services/attention/channels.py",  # notify-send, and the person's own command
        "services/egress/packages.py",  # pip and npm, to ask which indexes they are set to use
    }
)
#: Files that may look at the environment of their process.
ENVIRONMENT_READERS = frozenset(
    {
        "cli/demo.py",  # a model's key, when asked to use a real model
        "cli/hosts/programs.py",  # where agent programs of others keep their configuration
        "cli/main.py",  # completion, AEGIS_DEBUG
        "cli/output.py",  # NO_COLOR, TERM
        "client/launch.py",  # AEGIS_HOME; what the daemon inherits
        "core/faults.py",  # AEGIS_FAULTS
        "daemon/__main__.py",  # AEGIS_HOME
        "daemon/wiring.py",  # AEGIS_..., handed to the configuration
        "guest/agent/main.py",
        "guest/agent/mcp/stdio.py",
        "guest/agent/tools/shell.py",
        "guest/command.py",  # its request, and what the command inherits
        "guest/fork.py",  # puts the program's own in its place
        "guest/mcp.py",  # where the server is
        "guest/supervisor.py",
        "sandboxes/conformance/basics.py",  # to look for it inside
        "sandboxes/conformance/life.py",
        "sandboxes/environment.py",  # the time zone
    }
)
#: The output funnel: the only files that may write to the standard streams by themselves.
OUTPUT_SITES = frozenset(
    {
        "cli/output.py",  # makes text safe to show
        "daemon/__main__.py",  # why it did not start, where nobody else would say it
    }
)

FORBIDDEN_NAMES = frozenset({"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers", "stuff", "tools_common"})
MAX_LINES = 600


class Module(NamedTuple):
    """A source file: its dotted name, its path below `src/aegis`, its syntax tree."""

    name: str
    path: str
    tree: ast.Module
    lines: int

    @property
    def part(self) -> str:
        return self.name.split(".")[1] if "." in self.name else ""


class Import(NamedTuple):
    """One imported module with its line; `typing_only` when it stands under `if TYPE_CHECKING`."""

    module: str
    line: int
    typing_only: bool


@cache
def modules() -> tuple[Module, ...]:
    """Every source file of the package."""
    found = []
    for path in sorted((SRC / "aegis").rglob("*.py")):
        below = path.relative_to(SRC)
        if "demo_repo" in below.parts:  # the material of the demo, not code of ours
            continue
        parts = below.with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text()
        found.append(Module(name, str(below.relative_to("aegis")), ast.parse(text, str(path)), text.count("\n")))
    return tuple(found)


def imports(module: Module) -> list[Import]:
    """Every import in a file, the lazy ones in functions included. `from a import b` counts as `a.b` where that is a module of ours."""
    ours = {m.name for m in modules()}
    found: list[Import] = []

    def visit(node: ast.AST, typing_only: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.path}:{node.lineno}: relative import"
            base = node.module or ""
            found.extend(
                Import(f"{base}.{alias.name}" if f"{base}.{alias.name}" in ours else base, node.lineno, typing_only) for alias in node.names
            )
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                visit(child, True)
            for child in node.orelse:
                visit(child, typing_only)
            return
        for inner in ast.iter_child_nodes(node):
            visit(inner, typing_only)

    visit(module.tree, False)
    return found


def uses(module: Module, owner: str, names: frozenset[str] | None = None) -> list[int]:
    """The lines where a file uses `owner.NAME` (any NAME when None) or imports it from there."""
    lines: list[int] = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == owner:
            if names is None or node.attr in names:
                lines.append(node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module == owner:
            lines.extend(node.lineno for alias in node.names if names is None or alias.name in names)
    return lines
