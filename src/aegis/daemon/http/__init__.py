"""The HTTP way in: JSON over the unix socket of the home, and over TCP with a bearer token.

`door` finds out who is there before any route runs, `answers` turns results and errors into responses, the other modules are routes,
one per noun, without logic of their own. Every mutation goes through a service and its gate; no GET changes anything but the sleep of
the instance it looks into.
"""

from __future__ import annotations

from aegis.daemon.http.app import make_app

__all__ = ["make_app"]
