"""The authority of an instance: certificates for the hosts whose requests are looked at, which nothing but that sandbox trusts.

Its key is made when the sandbox starts, stays in the daemon's memory and ends with it. Certificates are for one host each and for
hours; nothing is written to a disk.
"""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from aegis.core.ids import new_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from aegis.services.egress.places import Place

#: As long as a sandbox may run; the key does not live longer than the daemon.
_LIFE: Final = timedelta(days=180)
_LEAF: Final = timedelta(hours=12)
#: A certificate is made anew when less than this is left of it.
_LEFT: Final = timedelta(hours=1)
#: The clock of a sandbox is the host's; what was made just now must be valid on any.
_BEFORE: Final = timedelta(hours=1)
PROTOCOLS: Final = ["http/1.1"]


class Authority:
    """Makes the daemon the server of a host, for one instance.

    Args:
        handle: the instance, as its certificate names it.
        now: wall time, in seconds.
    """

    def __init__(self, handle: str, now: Callable[[], float]) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec

        self._now = now
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(f"Aegis, for {handle} only"[:64])
        self._certificate = self._sign(self._name, self._key.public_key(), _LIFE, authority=True)
        self._contexts: dict[str, tuple[datetime, ssl.SSLContext]] = {}

    @property
    def pem(self) -> str:
        """The certificate that the sandbox trusts."""
        return _pem(self._certificate).decode()

    def context(self, place: Place) -> ssl.SSLContext:
        """A server of TLS for one host, with a certificate that is valid for at least another hour."""
        until, context = self._contexts.get(place.host, (None, None))
        if context is None or until is None or until - self._time() < _LEFT:
            context = self._context(place)
            self._contexts[place.host] = (self._time() + _LEAF, context)
        return context

    def _time(self) -> datetime:
        return datetime.fromtimestamp(self._now(), UTC)

    def _context(self, place: Place) -> ssl.SSLContext:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(_name(place.host[:64]), key.public_key(), _LEAF, place=place)
        encoded = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.set_alpn_protocols(PROTOCOLS)
        # OpenSSL reads keys from files alone; this one has no name and no disk.
        fd = os.memfd_create("leaf", os.MFD_CLOEXEC)
        try:
            os.write(fd, encoded + _pem(certificate))
            context.load_cert_chain(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        return context

    def _sign(self, subject: Any, public: Any, life: timedelta, *, authority: bool = False, place: Place | None = None) -> Any:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.x509.oid import ExtendedKeyUsageOID

        now = self._time()
        mine = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        flags = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
        )
        usage = x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **flags)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BEFORE)
            .not_valid_after(now + life)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )
        if not authority:
            builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(mine), critical=False)
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        if place is not None:
            named = x509.IPAddress(place.address) if place.address is not None else x509.DNSName(place.host)
            builder = builder.add_extension(x509.SubjectAlternativeName([named]), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _name(text: str) -> Any:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    # A unit of its own: two authorities of one name and different keys confuse some clients.
    unit = x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, new_id("ca"))
    return x509.Name([unit, x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return bytes(certificate.public_bytes(serialization.Encoding.PEM))
