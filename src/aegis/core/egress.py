"""Rules for requests to the outside, as people declare them and launches keep them. What they mean, `services/egress` says."""

from __future__ import annotations

import msgspec


class EgressRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A rule for a host whose requests are looked at one by one: which methods and paths pass, and what is added on the way.

    `host` is a rule as text, such as `api.example.com:443`. `secret` is the name of a secret that replaces its placeholder in headers
    to that host, or, with `header`, stands for `{}` in a header that each request gets. `roots` is a file with the certificates of
    those who vouch for a host of a private network.
    """

    host: str
    inspect: bool = False
    methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    secret: str | None = None
    header: str | None = None
    roots: str | None = None

    def __str__(self) -> str:
        told = [", ".join(self.methods), ", ".join(self.paths)]
        told += [f"with the secret {self.secret}" + (f" as `{self.header}`" if self.header else "")] if self.secret else []
        return f"{self.host} ({'; '.join(['inspected', *filter(None, told)])})"
