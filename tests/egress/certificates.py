"""An authority that nobody knows, and a server that it vouches for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def authority(chain: Path, roots: Path, *names: str) -> Path:
    """Write `roots`, the authority's certificate, and `chain`, the key and the certificate of a server of these names; returns the latter."""
    now = datetime.now(UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    own, server = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("an authority", "a server"))

    def sign(subject: x509.Name, key: ec.EllipticCurvePrivateKey, ca: bool) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(own)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )

    listed = [x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name) for name in names]
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    top = sign(own, keys[0], True).add_extension(usage, critical=True).sign(keys[0], hashes.SHA256())
    leaf = sign(server, keys[1], False).add_extension(x509.SubjectAlternativeName(listed), critical=False).sign(keys[0], hashes.SHA256())
    roots.write_bytes(top.public_bytes(serialization.Encoding.PEM))
    key = keys[1].private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    chain.write_bytes(key + leaf.public_bytes(serialization.Encoding.PEM))
    return chain
