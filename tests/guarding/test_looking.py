"""Finding what acts: all of it, cheaply again, never through a link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aegis.services.guarding import looking
from aegis.services.guarding.looking import Tree
from aegis.services.guarding.model import Item


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def repository(path: Path, config: str = "[core]\n\tbare = false\n") -> Path:
    for name in ("objects", "refs", "hooks"):
        (path / name).mkdir(parents=True)
    write(path / "HEAD", "ref: refs/heads/main\n")
    write(path / "config", config)
    return path


def look(tree: Tree, before: dict[str, Item] | None = None) -> dict[str, str]:
    return {path: item.rule for path, item in tree.look(before or {}).items()}


def test_what_is_found(tmp_path: Path) -> None:
    repository(tmp_path / ".git")
    write(tmp_path / ".git/hooks/pre-commit")
    write(tmp_path / ".git/hooks/pre-push.sample")
    write(tmp_path / ".git/objects/aa/hooks/x")
    repository(tmp_path / "deep/er/bare.git")
    write(tmp_path / "deep/er/bare.git/hooks/update")
    write(tmp_path / ".git/worktrees/t/HEAD")
    write(tmp_path / ".git/worktrees/t/commondir", "../..")
    write(tmp_path / "node_modules/x/.envrc")
    write(tmp_path / "sub/.git", "gitdir: ../evil")
    write(tmp_path / "hooks/pre-commit")  # of no repository
    write(tmp_path / "config")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/.envrc").mkdir()
    assert look(Tree(tmp_path)) == {
        ".git/config": "git config",
        ".git/hooks/pre-commit": "git hook",
        ".git/worktrees/t/commondir": "git directory",
        "deep/er/bare.git/config": "git config",
        "deep/er/bare.git/hooks/update": "git hook",
        "node_modules/x/.envrc": "direnv",
        "sub/.git": "git directory",
    }


def test_nothing_hides_in_what_looks_like_a_repository(tmp_path: Path) -> None:
    for name in ("objects", "refs", "logs"):
        repository(tmp_path / name / "evil/.git")
    write(tmp_path / "HEAD", "ref: refs/heads/main")
    repository(tmp_path / ".git/modules/m")
    assert look(Tree(tmp_path)) == {
        **{f"{name}/evil/.git/config": "git config" for name in ("objects", "refs", "logs")},
        ".git/modules/m/config": "git config",
    }


def test_hooks_elsewhere(tmp_path: Path) -> None:
    """By `core.hooksPath`, and by a link; files and directories below count, too."""
    repository(tmp_path / ".git", "[core]\n\thooksPath = .husky/_\n")
    write(tmp_path / ".husky/_/lib/h")
    repository(tmp_path / "other/.git")
    (tmp_path / "other/.git/hooks").rmdir()
    (tmp_path / "other/.git/hooks").symlink_to("../githooks")
    write(tmp_path / "other/githooks/pre-commit")
    (tmp_path / ".envrc").symlink_to("scripts/env.sh")
    write(tmp_path / "scripts/env.sh")
    found = look(Tree(tmp_path))
    assert found[".husky/_/lib/h"] == "git hook"
    assert found["other/.git/hooks"] == "git hook"
    assert found["other/githooks/pre-commit"] == "git hook"
    assert found[".envrc"] == found["scripts/env.sh"] == "direnv"


def test_links_lead_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    write(outside / ".envrc")
    repository(outside / ".git")
    place = tmp_path / "place"
    place.mkdir()
    (place / "in").symlink_to(outside)
    (place / ".vscode").symlink_to(outside)
    (place / ".git").symlink_to(outside / ".git")
    (place / "loop").symlink_to(".")
    assert look(Tree(place)) == {".vscode": "MCP servers", ".git": "git directory"}


def aged(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is on disk have been there for a while."""
    monkeypatch.setattr(looking, "_RECENT", -(10**12))


def test_nothing_is_read_again_when_nothing_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        write(tmp_path / f"d{number}/e/f.txt")
    envrc = write(tmp_path / "d3/.envrc", "one")
    tree = Tree(tmp_path)
    aged(tree, monkeypatch)
    first = tree.look({})
    assert tree.read_anew == 101
    assert tree.look({}) == first
    assert tree.read_anew == 0
    write(tmp_path / "d7/e/.mcp.json")
    changed = tree.look({})
    assert tree.read_anew == 1
    assert set(changed) == {"d3/.envrc", "d7/e/.mcp.json"}
    before = os.stat(envrc)
    envrc.write_text("two")
    os.utime(envrc, ns=(before.st_atime_ns, before.st_mtime_ns))  # the time of the change itself cannot be set back
    assert tree.look({})["d3/.envrc"].digest != first["d3/.envrc"].digest


def test_what_changed_just_now_is_looked_at_again(tmp_path: Path) -> None:
    write(tmp_path / "d/f")
    tree = Tree(tmp_path)
    tree.look({})
    tree.look({})
    assert tree.read_anew == 2


def test_pipes_devices_giants_and_closed_directories(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".envrc")
    with open(tmp_path / ".mcp.json", "wb") as file:
        file.truncate(1 << 34)
    write(tmp_path / "closed/.envrc")
    (tmp_path / "closed").chmod(0)
    try:
        found = Tree(tmp_path).look({})
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert found[".envrc"].kind == found[".mcp.json"].kind == "other"


def test_names_that_are_no_text(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff\xfe\n"
    os.mkdir(folder)
    with open(folder + b"/.envrc", "w") as file:
        file.write("x")
    (found,) = Tree(tmp_path).look({}).values()
    assert found.rule == "direnv"


def test_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "MOST", 10)
    for number in range(20):
        write(tmp_path / f"d{number}/f")
    write(tmp_path / ".envrc")
    tree = Tree(tmp_path)
    assert look(tree) == {".envrc": "direnv"}
    assert tree.too_many


def test_a_tree_of_many_files_is_looked_at_by_its_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a look costs follows the number of directories, not of files."""
    (tmp_path / "many").mkdir()
    for number in range(2000):
        (tmp_path / f"many/{number}").touch()
    tree = Tree(tmp_path)
    aged(tree, monkeypatch)
    tree.look({})
    calls = 0
    real = os.stat

    def counted(*args: object, **options: object) -> os.stat_result:
        nonlocal calls
        calls += 1
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", counted)
    tree.look({})
    assert calls <= 4
