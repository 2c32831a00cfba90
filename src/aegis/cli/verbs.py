"""The two shapes of commands: a `Verb`, which does something, and a `Table` of verbs, which imports them only when used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from click.shell_completion import CompletionItem


class Row(NamedTuple):
    """One verb in a table: where its function is, what it does in one line, and the section of the help it stands in."""

    module: str
    function: str
    summary: str
    section: str = "Commands"


class Verb(click.Command):
    """A command with the flags that all have.

    Args:
        json: whether it can answer in JSON.
        tail: how the usage line shows what comes after `--`, which the function gets as `command`, a tuple; None when nothing may.
    """

    def __init__(self, *args: Any, json: bool = True, tail: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tail = tail
        if json:
            self.params.append(_flag("--json", "Answer in JSON: one object, or one on each line."))
        self.params.append(_flag("--no-color", "No colours, as with NO_COLOR set."))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if self.tail is None:
            return super().parse_args(ctx, args)
        cut = args.index("--") if "--" in args else len(args)
        command = tuple(args[cut + 1 :])
        try:
            rest = super().parse_args(ctx, args[:cut])
        except click.UsageError as exc:
            plain = isinstance(exc, click.BadParameter) or (isinstance(exc, click.NoSuchOption) and exc.possibilities)
            if "--" in args or plain:
                raise
            raise click.UsageError(f"{exc.format_message().rstrip('.')}; a command comes after `--`", ctx) from exc
        ctx.params["command"] = command
        return rest

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        pieces = super().collect_usage_pieces(ctx)
        return [*pieces, self.tail] if self.tail else pieces


class Table(click.Group):
    """A group whose verbs are imported when they are used; without a verb it shows its help."""

    def __init__(self, name: str, help: str, rows: Mapping[str, Row], groups: Mapping[str, Table] | None = None) -> None:
        super().__init__(name, help=help)
        self.rows = rows
        self.groups = groups or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.rows, *self.groups]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in self.groups:
            return self.groups[name]
        row = self.rows.get(name)
        if row is None:
            return None
        verb = getattr(import_module(f"aegis.cli.{row.module}"), row.function)
        assert isinstance(verb, click.Command)
        return verb

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name in self.rows or name in self.groups or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        from aegis.core.errors import AegisError, ErrorKind, unknown_name

        told = unknown_name("verb", name, self.list_commands(ctx), f"see `{ctx.command_path} --help`")
        raise AegisError(ErrorKind.USAGE, f"`{ctx.command_path}` has no verb `{name}`", told.hint, **told.data)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        found = [CompletionItem(name, help=row.summary) for name, row in self.rows.items() if name.startswith(incomplete)]
        return found + [CompletionItem(name, help=group.help) for name, group in self.groups.items() if name.startswith(incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, row in self.rows.items():
            sections.setdefault(row.section, []).append((name, row.summary))
        if self.groups:
            sections["More verbs under"] = [(name, (group.help or "").splitlines()[0]) for name, group in self.groups.items()]
        width = max(len(name) for rows in sections.values() for name, _ in rows)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), summary) for name, summary in rows])


def _flag(name: str, meaning: str) -> click.Option:
    field = "json" if name == "--json" else "plain"

    def remember(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value and ctx.obj is not None:
            setattr(ctx.obj, field, True)

    return click.Option([name, f"set_{field}"], is_flag=True, expose_value=False, callback=remember, help=meaning)
