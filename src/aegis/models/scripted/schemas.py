"""Values for JSON schemas: what a script answers where a program asks for a shape and not for words."""

from __future__ import annotations

from typing import Any, Final

_DEEPEST: Final = 20
_WORD: Final = "scripted"


def smallest(schema: Any, *, root: dict[str, Any] | None = None, depth: int = 0) -> Any:
    """A small value that a schema allows: what it requires and no more. Knows references and Gemini's spelling of types.

    Patterns and formats are not looked at.
    """
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return None
    root = schema if root is None else root
    if "const" in schema:
        return schema["const"]
    for key in ("enum", "examples"):
        if isinstance(schema.get(key), list) and schema[key]:
            return schema[key][0]
    if isinstance(schema.get("$ref"), str):
        return smallest(_referred(root, schema["$ref"]), root=root, depth=depth + 1)
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list) and schema[key]:
            return smallest(schema[key][0], root=root, depth=depth + 1)
    if isinstance(schema.get("allOf"), list):
        merged = {k: v for part in schema["allOf"] if isinstance(part, dict) for k, v in part.items()}
        return smallest(merged, root=root, depth=depth + 1)
    match _type(schema):
        case "object":
            properties = schema.get("properties")
            properties = properties if isinstance(properties, dict) else {}
            required = schema.get("required")
            names = required if isinstance(required, list) else list(properties)
            return {str(name): smallest(properties.get(name), root=root, depth=depth + 1) for name in names if isinstance(name, str)}
        case "array":
            count = min(100, _count(schema.get("minItems")))
            return [smallest(schema.get("items"), root=root, depth=depth + 1) for _ in range(count)]
        case "string":
            return _WORD.ljust(min(10_000, _count(schema.get("minLength"))), ".")[: _count(schema.get("maxLength"), 10_000)]
        case "integer" | "number" as kind:
            value = _lowest(schema)
            return int(value) if kind == "integer" else value
        case "boolean":
            return False
    return None


def _lowest(schema: dict[str, Any]) -> float:
    """0, or what a bound leaves that is next to it."""
    low, above, high = (schema.get(key) for key in ("minimum", "exclusiveMinimum", "maximum"))
    if isinstance(above, int | float):
        return above + 1
    if isinstance(low, int | float) and low > 0:
        return low
    return high if isinstance(high, int | float) and high < 0 else 0


def _type(schema: dict[str, Any]) -> str:
    kind = schema.get("type", "object" if "properties" in schema else "")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    return kind.lower() if isinstance(kind, str) else ""


def _referred(root: dict[str, Any], reference: str) -> Any:
    found: Any = root
    for name in reference.removeprefix("#/").split("/"):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _count(value: Any, otherwise: int = 0) -> int:
    """A count of a schema; Gemini writes them as strings."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:
        return int(value)
    return value if type(value) is int and value >= 0 else otherwise
