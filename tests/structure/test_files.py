"""Files are small, named for what they are, and say what they are for."""

from __future__ import annotations

import ast
import re
import subprocess

import pytest
from tests.structure.house import FORBIDDEN_NAMES, MAX_LINES, ROOT, SRC, Module, modules

EVERY = [pytest.param(module, id=module.path) for module in modules()]


@pytest.mark.parametrize("module", EVERY)
def test_size_name_and_docstring(module: Module) -> None:
    assert module.lines <= MAX_LINES, f"{module.path} has {module.lines} lines"
    assert FORBIDDEN_NAMES.isdisjoint(module.name.split(".")), f"{module.path} has a name that says nothing"
    docstring = ast.get_docstring(module.tree)
    assert docstring, f"{module.path} does not say what it is for"


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "examples"])
def test_sizes_elsewhere(folder: str) -> None:
    large = [str(path) for path in (ROOT / folder).rglob("*.py") if path.read_text().count("\n") > MAX_LINES]
    assert not large


@pytest.mark.parametrize("module", [p for p in EVERY if p.values[0].path.endswith("__init__.py")])  # type: ignore[union-attr]
def test_all_names_exactly_what_a_package_shows(module: Module) -> None:
    """`__all__` names what exists, and everything that the package's `__init__` imports from its own modules only to show it."""
    listed: list[str] | None = None
    shown: set[str] = set()
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            listed = list(ast.literal_eval(node.value))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(module.name + "."):
            shown |= {alias.asname or alias.name for alias in node.names}
    shown -= {node.id for node in ast.walk(module.tree) if isinstance(node, ast.Name)}
    if listed is None:
        assert not shown, f"{module.path} shows {sorted(shown)} and has no __all__"
        return
    assert len(listed) == len(set(listed))
    defined = {
        name.id if isinstance(name, ast.Name) else str(getattr(name, "name", ""))
        for node in ast.walk(module.tree)
        for name in (
            [node] if isinstance(node, (ast.ClassDef, ast.FunctionDef)) else getattr(node, "targets", [getattr(node, "target", node)])
        )
    }
    imported = {alias.asname or alias.name for node in ast.walk(module.tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(listed) <= defined | imported, f"{module.path}: __all__ has names that do not exist"
    assert shown <= set(listed), f"{module.path}: not in __all__: {sorted(shown - set(listed))}"


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_locks_pin_everything_and_name_no_host(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert not re.search(r"^\s*-(?!-hash=)", text, re.MULTILINE), "an option in the lock file"
    assert not re.search(r"\b[a-z0-9-]+\.(com|org|net|io|dev)\b", text)
    entries = re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+(\[[a-z,]+\])?==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_locks_have_what_the_project_asks_for() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[\[<>=;\s]", requirement, maxsplit=1)[0].lower().replace(".", "-") for requirement in requirements}

    def locked(name: str) -> set[str]:
        return {line.split("==")[0].split("[")[0] for line in (ROOT / name).read_text().splitlines() if "==" in line and line[0] != " "}

    runtime = names(project["project"]["dependencies"])
    everything = runtime.union(*(names(group) for group in project["dependency-groups"].values()))
    assert runtime <= locked("requirements.lock")
    assert everything <= locked("requirements-dev.lock")


def test_the_package_is_typed() -> None:
    assert (SRC / "aegis" / "py.typed").exists()


def test_nothing_of_a_machine_is_in_the_repository() -> None:
    """No one's home directory, no temporary path of a developer, in any file that belongs to the project."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    wrong = []
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".sh", ".sql", ".json", ".lock"} and path.is_file():
            text = path.read_text(errors="replace")
            wrong += [f"{name}: {found[0]}" for found in re.finditer(r"(?<![\w.])/(?:root|home/[a-z]\w*|work)/[\w.]+/", text)]
    assert not wrong, wrong
