"""The help of every verb is pinned, and the table of verbs says what the verbs themselves say.

After a wanted change: `AEGIS_UPDATE_GOLDEN=1 pytest tests/cli/test_help.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from aegis.cli.commands import ROOT
from aegis.cli.output import Output
from aegis.cli.verbs import Table, Verb

GOLDEN = Path(__file__).parent.parent / "golden" / "cli"


def _commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, Table):
        context = click.Context(command, info_name=path[-1])
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _commands(inner, (*path, name))


COMMANDS = dict(_commands(ROOT, ("aegis",)))


def _help(path: tuple[str, ...]) -> str:
    context = None
    for name, end in zip(path, range(1, len(path) + 1), strict=True):
        command = COMMANDS[path[:end]]
        context = click.Context(command, info_name=name, parent=context, obj=Output(), terminal_width=100)
    assert context is not None
    return context.get_help() + "\n"


@pytest.mark.parametrize("path", COMMANDS, ids="-".join)
def test_help_is_as_pinned(path: tuple[str, ...]) -> None:
    file = GOLDEN / f"{'-'.join(path)}.txt"
    if os.environ.get("AEGIS_UPDATE_GOLDEN"):
        file.write_text(_help(path))
    assert file.read_text() == _help(path)


def test_no_golden_file_is_left_over() -> None:
    assert {file.stem for file in GOLDEN.glob("*.txt")} == {"-".join(path) for path in COMMANDS}


@pytest.mark.parametrize("path", [path for path, command in COMMANDS.items() if isinstance(command, Table)], ids="-".join)
def test_the_table_says_what_its_verbs_say(path: tuple[str, ...]) -> None:
    table = COMMANDS[path]
    assert isinstance(table, Table)
    for name, row in table.rows.items():
        verb = COMMANDS[(*path, name)]
        assert isinstance(verb, Verb)
        assert (verb.help or "").split("\n")[0] == row.summary, f"{name}: the summary and the docstring differ"


@pytest.mark.parametrize("path", [path for path, command in COMMANDS.items() if isinstance(command, Verb)], ids="-".join)
def test_every_option_of_a_verb_says_what_it_does(path: tuple[str, ...]) -> None:
    for parameter in COMMANDS[path].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{' '.join(path)} {parameter.opts[0]} has no help"
            assert parameter.help.endswith(".")
