"""Aegis runs teams of AI agents on your own machines.

`Aegis` is the way in for a user's own Python; the `aegis` program is the one for people. Both speak to the one daemon of a
home and start it when it does not run. Nothing is imported before it is asked for, so that `aegis --version` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aegis.client.aio import Aegis as Aegis
    from aegis.core.errors import AegisError as AegisError
    from aegis.core.version import __version__ as __version__

__all__ = ["Aegis", "AegisError", "__version__"]

_PLACES = {"Aegis": "aegis.client.aio", "AegisError": "aegis.core.errors", "__version__": "aegis.core.version"}


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(place), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
