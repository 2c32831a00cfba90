"""Security contexts: what an agent may call, written as a list of capabilities, compiled to the same rules that everything else is.

A capability becomes a `permit`; all of them together become one `forbid ... unless`, so that an agent which is bound by several
contexts has only what each of them gives, and a rule that permits more elsewhere changes nothing. A list that is there and holds
nothing (`[]`, null, `[""]`) allows nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aegis.core.errors import unknown_name
from aegis.core.text import one_line
from aegis.services.config.document import Node, Place, parse
from aegis.services.config.kinds import NAME
from aegis.services.gate import obligations
from aegis.services.gate.model import Facet, Obligations
from aegis.services.gate.reading import statements
from aegis.services.gate.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Sequence

KIND: Final = "SecurityContext"
VERSIONS: Final = ("aegis/v1", "100monkeys.ai/v1")
MAX_ITEMS: Final = 200
_ROOT: Final = ("apiVersion", "kind", "metadata", "spec", "name", "description", "capabilities", "deny_list")
_SPEC: Final = ("description", "capabilities", "deny_list")
_META: Final = ("name", "version", "description", "labels", "annotations", "created_at", "updated_at")
_CAPABILITY: Final = (
    "tool_pattern", "path_allowlist", "command_allowlist", "subcommand_allowlist", "domain_allowlist", "max_response_size", "rate_limit",
    "max_concurrent",
)  # fmt: skip
_PATTERN: Final = re.compile(r"\*|[A-Za-z0-9_][A-Za-z0-9_.-]{0,126}\*?")
_DOMAIN: Final = re.compile(r"(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_WORD: Final = re.compile(r"[!-~]{1,100}")
_CALLS: Final = '[Action::"tool.call", Action::"tool.list", Action::"tool.use"]'


class Capability(NamedTuple):
    """One thing that a context gives. A list that is None is not there; an empty one allows nothing."""

    place: Place
    tool: str
    paths: tuple[str, ...] | None = None
    commands: tuple[str, ...] | None = None
    subcommands: dict[str, tuple[str, ...]] | None = None
    domains: tuple[str, ...] | None = None
    max_result: int | None = None
    rate: tuple[int, float] | None = None
    concurrent: int | None = None

    @property
    def listed(self) -> bool:
        """Whether it says anything of what a call touches."""
        return any(each is not None for each in (self.paths, self.commands, self.subcommands, self.domains))


class Context(NamedTuple):
    """A context as it is declared."""

    name: str
    place: Place
    description: str
    capabilities: tuple[Capability, ...]
    deny: tuple[str, ...]


def read(content: bytes, file: str) -> Context:
    """The context of one file. Raises USAGE with its place."""
    root = parse(content, file)
    if root is None:
        raise Place(file).error("an empty declaration", "write the context, or remove the file")
    of = _mapping(root, _ROOT, "a security context")
    kind, version = _text(of.get("kind")), _text(of.get("apiVersion"))
    if kind != KIND:
        raise root.place.error(f"`kind` is {kind or 'missing'}", f"write `kind: {KIND}`; rules are written in `.cedar` files")
    if version not in VERSIONS:
        raise root.place.error(f"`apiVersion` is {version or 'missing'}", f"write `apiVersion: {VERSIONS[0]}`")
    meta = _mapping(of["metadata"], _META, "the metadata of a security context") if "metadata" in of else {}
    spec = _mapping(of["spec"], _SPEC, "a security context") if "spec" in of else of
    name = _text(meta.get("name")) or _text(of.get("name"))
    if not NAME.fullmatch(name):
        raise root.place.error(f"`{one_line(name, 80)}` cannot name a security context", f"`metadata.name` looks like `{NAME.pattern}`")
    return Context(
        name=name,
        place=root.place,
        description=_text(spec.get("description")) or _text(meta.get("description")),
        capabilities=tuple(_capability(node) for node in _list(spec.get("capabilities"))),
        deny=tuple(_pattern(node) for node in _list(spec.get("deny_list"))),
    )


def _capability(node: Node) -> Capability:
    of = _mapping(node, _CAPABILITY, "a capability")
    if "tool_pattern" not in of:
        raise node.place.error("a capability without `tool_pattern`", "write the tool that it gives, such as `fs.*`")
    bounds: dict[str, Any] = {}
    if (said := of.get("rate_limit")) is not None:
        rate = _mapping(said, ("calls", "per_seconds"), "a rate limit")
        bounds["rate"] = (_whole(rate.get("calls"), said.place, 99_999), float(_whole(rate.get("per_seconds"), said.place, 999_999)))
        if not bounds["rate"][1]:
            raise said.place.error("a rate limit in no time", "`per_seconds` is at least 1")
    if (said := of.get("max_concurrent")) is not None:
        bounds["concurrent"] = _whole(said, said.place, 999_999)
    if (said := of.get("max_response_size")) is not None:
        bounds["max_result"] = obligations.size(str(said.value), said.place)
    return Capability(
        place=node.place,
        tool=_pattern(of["tool_pattern"]),
        paths=_words(of, "path_allowlist", None),
        commands=_words(of, "command_allowlist", _WORD),
        subcommands=_subcommands(of["subcommand_allowlist"]) if "subcommand_allowlist" in of else None,
        domains=_words(of, "domain_allowlist", _DOMAIN),
        **bounds,
    )


def _subcommands(node: Node) -> dict[str, tuple[str, ...]]:
    if node.value is None:
        return {}
    if not isinstance(node.value, dict):
        raise node.place.error("not a mapping of commands to lists of their first words")
    return {name: _words(node.value, name, _WORD) or () for name in node.value}


def _words(of: dict[str, Node], key: str, pattern: re.Pattern[str] | None) -> tuple[str, ...] | None:
    """The texts of a list, without empty ones; None when the key is not there at all."""
    if key not in of:
        return None
    found = []
    for node in _list(of[key]):
        text = _text(node)
        if not text.strip():
            continue
        if pattern is not None and not pattern.fullmatch(text):
            raise node.place.error(f"`{one_line(text, 80)}` cannot stand in `{key}`")
        if pattern is None and (not text.startswith("/") or ".." in text.split("/") or not text.isprintable()):
            raise node.place.error(f"`{one_line(text, 80)}` is not an absolute path", "write it as it is inside, such as `/workspace`")
        found.append(text)
    return tuple(found)


def _mapping(node: Node, known: Sequence[str], what: str) -> dict[str, Node]:
    if not isinstance(node.value, dict):
        raise node.place.error(f"not {what}", "write a mapping of: " + ", ".join(f"`{key}`" for key in known))
    for key, place in node.keys.items():
        if key not in known:
            near = unknown_name("key", one_line(key, 80), known)
            raise place.error(f"{near.message} in {what}", near.hint, nearest=near.data["nearest"])
    return node.value


def _list(node: Node | None) -> list[Node]:
    if node is None or node.value is None:
        return []
    if not isinstance(node.value, list):
        raise node.place.error("not a list")
    if len(node.value) > MAX_ITEMS:
        raise node.place.error(f"more than {MAX_ITEMS} items")
    return node.value


def _text(node: Node | None) -> str:
    if node is None or node.value is None:
        return ""
    if isinstance(node.value, (list, dict, bool)):
        raise node.place.error("not a text")
    return str(node.value)


def _whole(node: Node | None, place: Place, most: int) -> int:
    if node is None or not isinstance(node.value, int) or isinstance(node.value, bool) or not 0 <= node.value <= most:
        raise (node.place if node is not None else place).error(f"not a whole number up to {most:,}")
    return node.value


def _pattern(node: Node) -> str:
    text = _text(node).replace("__", ".")
    if not _PATTERN.fullmatch(text):
        raise node.place.error(
            f"`{one_line(text, 80)}` is not a tool", "write a tool such as `fs.read`, a beginning such as `fs.*`, or `*`"
        )
    return text


# -- to rules


def compiled(context: Context, source: str) -> list[Rule]:
    """The rules of a context. Ids hold a colon, which those of people cannot."""
    bound = f'principal.security.contains("{context.name}")'
    head = f"(principal is Instance, action in {_CALLS}, resource)"
    name = f"security:{context.name}"
    gives = [_condition(capability) for capability in context.capabilities]
    rules = [
        _made(f"permit {head} when {{ {bound} && {given} }};", f"{name}#{n}", capability.place, source, context, capability)
        for n, (capability, given) in enumerate(zip(context.capabilities, gives, strict=True), 1)
    ]
    unless = f" unless {{ {_any(gives)} }}" if gives else ""
    rules.append(_made(f"forbid {head} when {{ {bound} }}{unless};", name, context.place, source, context, None))
    if context.deny:
        denied = _any([_tool(pattern) for pattern in context.deny])
        text = f"forbid {head} when {{ {bound} && {denied} }};"
        rules.append(_made(text, f"{name}#deny", context.place, source, context, None))
    return rules


def _made(text: str, ident: str, place: Place, source: str, context: Context, capability: Capability | None) -> Rule:
    bounds = Obligations()
    if capability is not None:
        bounds = Obligations(capability.rate, capability.concurrent, capability.max_result)
    statement = statements(text, str(place), bounded=False)[0]._replace(place=place, only=("security", context.name))
    return Rule(ident, source, statement, doc=context.description, obligations=bounds, context=context.name)


def _condition(capability: Capability) -> str:
    parts = [_tool(capability.tool)]
    touches = []
    if capability.paths is not None:
        touches.append(f"(!(context has path) || {_any([_path(path) for path in capability.paths])})")
    if capability.commands is not None:
        touches.append(f"(!(context has command) || {_among('context.command', capability.commands)})")
    for command, words in (capability.subcommands or {}).items():
        first = f"(context has subcommand && {_among('context.subcommand', words)})"
        touches.append(f"(!(context has command) || context.command != {_quoted(command)} || {first})")
    if capability.subcommands == {}:
        touches.append("!(context has command)")
    if capability.domains is not None:
        touches.append(f"(!(context has host) || {_any([_domain(domain) for domain in capability.domains])})")
    if capability.listed:
        # A call of which is not known what it touches is none of those that are listed.
        touches.append("(context has path || context has command || context has host)")
        parts.append(f'(action == Action::"tool.list" || {_tree(touches, "&&")})')
    if (capability.rate is not None and not capability.rate[0]) or capability.concurrent == 0:
        parts.append("false")
    return f"({' && '.join(parts)})"


def _tool(pattern: str) -> str:
    if pattern.endswith("*"):
        return f'resource.name like "{pattern}"'
    return f"resource.name == {_quoted(pattern)}"


def _path(path: str) -> str:
    bare = re.sub(r"(?:/\*{1,2})?/*$", "", path)
    if not bare:
        return "true"
    if "*" in bare:
        return f'(context.path like "{_escaped(bare)}" || context.path like "{_escaped(bare)}/*")'
    below = f'context.path like "{_escaped(bare)}/*"'
    return f"(context.path == {_quoted(bare)} || {below})"


def _domain(domain: str) -> str:
    lower = domain.lower()
    return f'context.host like "{lower}"' if lower.startswith("*.") else f"context.host == {_quoted(lower)}"


def _among(what: str, words: Sequence[str]) -> str:
    return f"[{', '.join(_quoted(word) for word in words)}].contains({what})" if words else "false"


def _any(conditions: Sequence[str]) -> str:
    return _tree(conditions, "||") if conditions else "false"


def _tree(conditions: Sequence[str], operator: str) -> str:
    """Conditions as a balanced tree, so that a long list is not a deep one."""
    if len(conditions) == 1:
        return conditions[0]
    half = len(conditions) // 2
    return f"({_tree(conditions[:half], operator)} {operator} {_tree(conditions[half:], operator)})"


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


# -- why not


def why_not(context: Context, tool: str, facet: Facet) -> str:
    """What a context has against a call, for the agent that wanted to make it."""
    if any(_fits(pattern, tool) for pattern in context.deny):
        return f"the security context `{context.name}` denies `{tool}`"
    fitting = [capability for capability in context.capabilities if _fits(capability.tool, tool)]
    if not fitting:
        given = ", ".join(f"`{capability.tool}`" for capability in context.capabilities) or "nothing"
        return f"the security context `{context.name}` does not give `{tool}`: it gives {given}"
    said = list(dict.fromkeys(_lacks(capability, facet) for capability in fitting))
    return f"the security context `{context.name}` does not give this: " + "; or ".join(said[:3])


def _fits(pattern: str, tool: str) -> bool:
    return tool.startswith(pattern[:-1]) if pattern.endswith("*") else tool == pattern


def _lacks(capability: Capability, facet: Facet) -> str:
    if facet.path is not None and capability.paths is not None:
        return f"`{facet.path}` is outside of {_shown(capability.paths)}"
    if facet.command is not None:
        words = (capability.subcommands or {}).get(facet.command)
        if capability.commands is not None and facet.command not in capability.commands:
            return f"`{facet.command}` is not among {_shown(capability.commands)}"
        if words is not None and facet.subcommand not in words:
            return f"`{facet.command} {facet.subcommand or ''}`".replace(" `", "`") + f" is not among {_shown(words)} of `{facet.command}`"
        if capability.subcommands == {}:
            return "no command is listed"
    if facet.host is not None and capability.domains is not None:
        return f"`{facet.host}` is not among {_shown(capability.domains)}"
    return "what the call touches cannot be told from it, and what it may touch is listed" if capability.listed else "no call is left to it"


def _shown(words: Sequence[str]) -> str:
    return one_line(", ".join(words), 200) or "the empty list"
