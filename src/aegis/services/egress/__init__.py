"""The egress gate: the daemon's end of every `egress` channel, and the only way out of a sandbox.

A program in a sandbox speaks to an HTTP proxy on its loopback; the bytes arrive here. Nothing is allowed but what the instance's
rules name. For each connection: the host and port are read strictly (`places`), compared with the rules (`rules`), the name is
resolved by the daemon and every answer looked at (`addresses`), the connection goes to the address that was looked at and to no
other (`dialling`), and what passes is held to the host that was allowed (`tls`, `heads`, `proxy`).

Guaranteed: without a rule nothing leaves; the audit record is on disk before the connection is made; private addresses, this machine's
own among them, are reached only where a rule names the address, and the metadata services of clouds never; in a tunnel the server
name in the clear is the host of the rule. Where a rule says `inspect`, TLS ends here (`authority`, `securing`, `inspecting`), each request
is judged by its method and every reading of its path (`paths`) and recorded before it is sent, and a secret takes the place of its
placeholder on the way to its own host alone (`credentials`). Not done: looking into TLS elsewhere, so what a host does with what it is
sent, or which of its sites is asked for, is not seen; looking at bodies, other than for placeholders; HTTP/2 and WebSocket within
requests that are looked at.
"""

from aegis.services.egress.packages import Packages
from aegis.services.egress.rules import Rules
from aegis.services.egress.service import Egress, Entrusted

__all__ = ["Egress", "Entrusted", "Packages", "Rules"]
