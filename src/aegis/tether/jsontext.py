"""JSON for the tether, without the cost of importing `json`.

The package `json` pulls in `re` and `enum`: 8 ms and 1.2 MB in a bare interpreter, which is most of a guest. Its C
accelerator alone costs 0.3 ms. Where an interpreter has no accelerator, or one of another shape, the package is used.
Output is compact. `loads` raises ValueError for anything that is not one JSON value.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def _plain() -> tuple[Callable[[Any], str], Callable[[Any], str], Callable[[str], Any]]:
    from json import JSONDecoder, JSONEncoder

    ascii_, unicode = (JSONEncoder(separators=(",", ":"), ensure_ascii=flag).encode for flag in (True, False))
    return ascii_, unicode, JSONDecoder().decode


def _accelerated() -> tuple[Callable[[Any], str], Callable[[Any], str], Callable[[str], Any]]:
    import _json as c

    if hasattr(sys, "gettotalrefcount"):
        raise ImportError("a debug build aborts where the accelerator fails without an exception, see below")

    class Context:  # what the scanner asks of a JSONDecoder
        strict = True
        object_hook = None
        object_pairs_hook = None
        parse_float = float
        parse_int = int
        parse_constant = None

    def unencodable(value: object) -> object:
        raise TypeError(f"{type(value).__name__} has no JSON form")

    scan = c.make_scanner(Context)  # type: ignore[arg-type]

    def encoder(quote: Callable[[str], str]) -> Callable[[Any], str]:
        pieces = c.make_encoder(None, unencodable, quote, None, ":", ",", False, False, False)
        return lambda value: "".join(pieces(value, 0))

    ascii_, unicode = encoder(c.encode_basestring_ascii), encoder(c.encode_basestring)

    def decode(text: str) -> Any:
        text = text.strip(" \t\n\r")
        try:
            value, end = scan(text, 0)
        except StopIteration:
            raise ValueError("not a JSON value") from None
        except TypeError:  # NaN and Infinity call parse_constant, which is None
            raise ValueError("not a JSON number") from None
        except SystemError:  # Python 3.11 forgets its exception when json.decoder is not imported
            raise ValueError("not a JSON value") from None
        if end != len(text):
            raise ValueError("more than one JSON value")
        return value

    value = {"a": [1, 2.5, True, None, '\u00e9"\n']}
    if any(decode(encode(value)) != value for encode in (ascii_, unicode)):
        raise ValueError("the accelerator has another shape")
    return ascii_, unicode, decode


try:
    _ascii, _unicode, _decode = _accelerated()
except (ImportError, AttributeError, TypeError, ValueError):
    _ascii, _unicode, _decode = _plain()


def dumps(value: Any) -> bytes:
    """`value` as compact ASCII JSON. Raises TypeError or ValueError for what JSON cannot say."""
    return _ascii(value).encode("ascii")


def dumps_text(value: Any) -> bytes:
    """`value` as compact UTF-8 JSON, for what holds people's texts; lone surrogates are replaced. Raises as `dumps`."""
    return _unicode(value).encode("utf-8", "replace")


def loads(data: bytes | bytearray | str) -> Any:
    """The one JSON value in `data`. Raises ValueError, also for text nested too deeply to read."""
    try:
        return _decode(data if isinstance(data, str) else data.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
