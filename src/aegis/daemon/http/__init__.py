"""The HTTP way in: JSON over the unix socket of the home, and over TCP with a bearer token.

`door` finds out who is there before any route runs, by HTTP or WebSocket. `rows` is the table of all operations, in the form that `table`
gives it: the routes, the checks before a handler, the OpenAPI document (`document`) and the reference in the documentation are made of
it. `answers` turns results and errors into responses, `following` and `sockets` tell the log by cursor, `shapes` says what answers look
like; the other modules are handlers, one per noun, without logic of their own. Every mutation goes through a service and its gate; no
GET changes anything but the sleep of the instance it looks into.
"""

from __future__ import annotations

from aegis.daemon.http.app import make_app

__all__ = ["make_app"]
