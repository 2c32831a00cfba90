"""Certificates that a sandbox trusts besides the system's: which files are made for them, and that none is without any."""

from __future__ import annotations

from aegis.sandboxes import ALL_ROOTS, ROOTS
from aegis.sandboxes.bwrap import roots

PEM = "-----BEGIN CERTIFICATE-----\nown\n-----END CERTIFICATE-----\n"


def test_no_files_without_roots() -> None:
    assert roots.files("") == {}


def test_the_systems_file_is_covered_by_one_with_both() -> None:
    made = roots.files(PEM)
    assert made[ROOTS] == PEM
    assert made[ALL_ROOTS].endswith(PEM)
    assert set(made) == {ROOTS, ALL_ROOTS, *roots.PLACES}
    assert all(made[place] == made[ALL_ROOTS] and len(made[place]) > len(PEM) for place in roots.PLACES)
    assert all(place.startswith(("/etc/ssl/", "/etc/pki/", "/etc/ca-certificates/", "/usr/")) for place in roots.PLACES)
