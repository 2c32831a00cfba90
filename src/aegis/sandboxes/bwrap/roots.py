"""Whom programs inside trust to name servers: what the host's system trusts, and, where the instance has one, its own authority.

Programs find the certificates by variables (`egress`), or where the system keeps them; that file is bound over by one with both.
"""

from __future__ import annotations

import os
import ssl
from typing import Final

from aegis.sandboxes import ALL_ROOTS, ROOTS

#: Where distributions keep all certificates in one file: Debian, Fedora, Alpine, SUSE.
_FILES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
)
_SHOWN: Final = ("/etc/ssl/", "/etc/pki/", "/etc/ca-certificates/", "/usr/")


def _there() -> dict[str, str]:
    """The files of this host: where one really is, by the name that leads there."""
    real = {name: os.path.realpath(name) for name in _FILES if os.path.isfile(name)}
    return {name: path for name, path in real.items() if path.startswith(_SHOWN)}


#: Files of the system that are bound over. They stand within directories that are shown, so they exist inside.
PLACES: Final = frozenset(_there().values())


def files(roots: str) -> dict[str, str]:
    """The generated files for certificates in PEM: path inside -> text. Nothing without any. Raises OSError."""
    if not roots:
        return {}
    every = _system() + roots
    return {ROOTS: roots, ALL_ROOTS: every, **dict.fromkeys(PLACES, every)}


def _system() -> str:
    """All certificates that this host trusts, in PEM."""
    known = [*_there().values(), ssl.get_default_verify_paths().cafile]
    for path in known:
        if path is not None and os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                return file.read().rstrip("\n") + "\n"
    return ""
