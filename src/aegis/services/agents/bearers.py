"""What a session presents at Aegis's own MCP server, and where it finds that: nothing of it is stored, and it ends with the instance."""

from __future__ import annotations

import base64
import binascii
import hmac
from functools import lru_cache
from typing import TYPE_CHECKING

from aegis.drivers import McpServer
from aegis.services.config.reach import OWN_SERVER

if TYPE_CHECKING:
    from aegis.sandboxes.link import Link
    from aegis.services.agents.model import Instance


@lru_cache(maxsize=4096)
def bearer_of(token: str, session: str) -> str:
    """What the program of `session` of the instance with this token presents: an HMAC-SHA256, hex. It is of no use to any other session."""
    return hmac.new(token.encode(), b"mcp\n" + session.encode(), "sha256").hexdigest()


@lru_cache(maxsize=4096)
def program_bearer_of(token: str, session: str) -> str:
    """What other programs present as that session. They have the same identity; mail is not put behind what they are answered."""
    return hmac.new(token.encode(), b"mcp program\n" + session.encode(), "sha256").hexdigest()


def server_of(link: Link, instance: Instance, session: str) -> McpServer:
    """Aegis's own MCP server for a session, as it is found in its sandbox. Raises AegisError when the sandbox has no way to it."""
    bearer = bearer_of(instance.token, session)
    return McpServer(name=OWN_SERVER, url=f"{link.mcp}{path_of(session)}", headers={"Authorization": f"Bearer {bearer}"})


def key_of(session: str) -> str:
    """A session key as a part of a URL's path: unpadded URL-safe base64."""
    return base64.urlsafe_b64encode(session.encode()).decode().rstrip("=")


def path_of(session: str) -> str:
    """Where the MCP server of a session is below `Link.mcp`."""
    return f"/s/{key_of(session)}/mcp"


def session_of(key: str) -> str | None:
    """The session whose `key_of` this is; None when it is none."""
    try:
        session = base64.b64decode(key + "=" * (-len(key) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    return session if session and key_of(session) == key else None
