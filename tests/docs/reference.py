"""The generated parts of the documentation. `python -m tests.docs.reference` writes them; a test checks that they are as generated."""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Any

import msgspec

from aegis.core.errors import ErrorKind
from aegis.core.events import FACTS
from aegis.daemon.http import document as openapi
from aegis.daemon.http import wire
from aegis.daemon.http.app import rows
from aegis.daemon.http.table import Parameter, Row
from aegis.services.config.keys import KEYS

DOCS = Path(__file__).resolve().parents[2] / "docs"

_MEANINGS = {
    ErrorKind.USAGE: "the request itself is wrong",
    ErrorKind.TOO_LARGE: "the request is over a size limit",
    ErrorKind.NOT_FOUND: "there is nothing of that name",
    ErrorKind.CONFLICT: "the thing is in a state that does not allow it",
    ErrorKind.DENIED: "the gate said no",
    ErrorKind.LIMIT: "a budget, a quota or a provider's limit is reached",
    ErrorKind.TIMEOUT: "it took longer than allowed",
    ErrorKind.UNREACHABLE: "there is no daemon, or it does not answer",
    ErrorKind.UNAVAILABLE: "this machine cannot do it: a missing program, a full disk",
    ErrorKind.FAILED: "the work was done and failed",
    ErrorKind.INTERRUPTED: "somebody cut it short",
    ErrorKind.INTERNAL: "a defect of Aegis",
}


def keys() -> str:
    """The table of keys; those of `defaults` are those of an agent."""
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    defaults = {key.name.removeprefix("defaults."): key.default for key in KEYS if key.name.startswith("defaults.")}
    for key in KEYS:
        if not key.name.startswith("defaults."):
            default = key.default if key.default is not None else defaults.get(key.name.removeprefix("agents.NAME."))
            rows.append(f"| `{key.name}` | {key.kind.form} | {_default(default)} | {key.meaning} |")
    return "\n".join(rows)


def variables() -> str:
    """The environment variables."""
    return "\n".join(["| variable | key |", "|---|---|", *(f"| `{key.variable}` | `{key.name}` |" for key in KEYS if key.variable)])


def errors() -> str:
    """The table of kinds of error."""
    rows = ["| kind | HTTP status | exit code | meaning |", "|---|---|---|---|"]
    rows += [f"| `{kind}` | {kind.codes.http} | {kind.codes.exit} | {_MEANINGS[kind]} |" for kind in ErrorKind]
    return "\n".join(rows)


def operations() -> str:
    """Every operation of the HTTP API, by noun."""
    found = []
    for tag, about in openapi.TAGS.items():
        chosen = [row for row in rows() if row.tag == tag]
        found += [f"### {tag.capitalize()}", "", about, "", "| request | what it does | takes | gives |", "|---|---|---|---|"]
        found += [f"| `{row.method} {row.public_path}` | {row.summary} | {_takes(row)} | {_gives(row)} |" for row in chosen]
        found.append("")
    return "\n".join(found).rstrip()


def events() -> str:
    """Every type of event, with what it tells."""
    table = ["| event | kept | data | meaning |", "|---|---|---|---|"]
    for kind, fact in FACTS.items():
        fields = ", ".join(f"`{field.name}`" for field in msgspec.structs.fields(fact))
        table.append(f"| `{kind}` | {'' if fact.ephemeral else 'yes'} | {fields} | {_first(fact)} |")
    return "\n".join(table)


def frames() -> str:
    """The frames of the WebSocket, both ways."""
    table = ["| frame | from | fields | meaning |", "|---|---|---|---|"]
    for who, kinds in (("you", wire.Asked), ("daemon", wire.Answered)):
        for kind in typing.get_args(kinds):
            fields = ", ".join(f"`{field.name}`" + ("" if field.required else "?") for field in msgspec.structs.fields(kind))
            table.append(f"| `{kind.__struct_config__.tag}` | {who} | {fields} | {_first(kind)} |")
    return "\n".join(table)


def _takes(row: Row) -> str:
    def shown(parameter: Parameter) -> str:
        return f"`{parameter.name}`" + ("" if parameter.required else "?")

    query = [shown(parameter) for place, parameter in openapi.parameters(row) if place == "query"]
    return ", ".join([*query, *([_shape(row.body)] if row.body else []), *(["bytes"] if row.raw else [])])


def _gives(row: Row) -> str:
    if row.socket is not None:
        return "101, WebSocket"
    codes = " or ".join(str(status) for status in (row.status, *row.also))
    streamed = {"application/x-ndjson": "lines", "text/event-stream": "SSE"}
    how = [*(["JSON"] if row.pages and row.streams else []), *(streamed[media] for media in row.streams)]
    return f"{codes}, {_shape(row.answer)}" + (f" ({', '.join(how)})" if how else "")


def _shape(kind: Any) -> str:
    if typing.get_origin(kind) is list:
        return f"list of {_shape(typing.get_args(kind)[0])}"
    return "an object" if kind is dict else f"`{kind.__name__}`"


def _first(kind: type) -> str:
    """The docstring of a type in one line."""
    return " ".join((kind.__doc__ or "").split()).replace("|", "\\|")


#: Document and marker -> its content.
GENERATED = {
    ("configuration.md", "keys"): keys,
    ("configuration.md", "variables"): variables,
    ("errors.md", "errors"): errors,
    ("http-api.md", "operations"): operations,
    ("http-api.md", "events"): events,
    ("http-api.md", "frames"): frames,
}


def rendered(document: str) -> tuple[str, str]:
    """A document as it is and as it should be."""
    text = wanted = (DOCS / document).read_text()
    for (name, marker), content in GENERATED.items():
        if name == document:
            pattern = re.compile(rf"(<!-- begin {marker} -->\n).*?(<!-- end {marker} -->)", re.DOTALL)
            assert pattern.search(wanted), f"no marker `{marker}` in {document}"
            wanted = pattern.sub(lambda found, content=content: f"{found[1]}\n{content()}\n\n{found[2]}", wanted)  # type: ignore[misc]
    return text, wanted


def _default(value: Any) -> str:
    if value is None or value == []:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float):
        for unit, seconds in (("h", 3600), ("m", 60), ("s", 1)):
            if value % seconds == 0:
                return f"`{value / seconds:g}{unit}`"
    return f"`{value}`"


def main() -> None:
    for document in sorted({name for name, _ in GENERATED}):
        text, wanted = rendered(document)
        if text != wanted:
            (DOCS / document).write_text(wanted)


if __name__ == "__main__":
    main()
