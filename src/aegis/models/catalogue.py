"""The providers of a home by name: the built-in ones and those a person declared."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from aegis.core.errors import unknown_name
from aegis.models.names import SCRIPTED, ModelName, ProviderSpec, merge, parse
from aegis.models.scripted import ScriptedProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aegis.core.clock import Clock
    from aegis.models import Provider


class Readiness(msgspec.Struct, frozen=True):
    """Whether a provider could be called now. `mend` is the command that makes it so."""

    name: str
    ok: bool
    detail: str
    mend: str = ""


class Catalogue:
    """Finds and keeps providers; each is made on first use."""

    def __init__(self, declared: Mapping[str, ProviderSpec] | None = None, *, clock: Clock | None = None) -> None:
        self._specs = merge(declared or {})
        self._clock = clock
        self._made: dict[str, Provider] = {}

    @property
    def names(self) -> list[str]:
        """The providers there are."""
        return [SCRIPTED, *self._specs]

    def parse(self, model: str) -> ModelName:
        """Read `provider/model` with the providers of this home; errors as `names.parse`."""
        return parse(model, self.names)

    def provider(self, name: str) -> Provider:
        """The provider `name`. Raises AegisError(NOT_FOUND) with the nearest one."""
        if name not in self._made:
            if name == SCRIPTED:
                self._made[name] = ScriptedProvider(clock=self._clock)
            elif name in self._specs:
                from aegis.models.http import HttpProvider  # httpx is a third of the daemon's imports, and many homes never need it

                self._made[name] = HttpProvider(self._specs[name], clock=self._clock)
            else:
                raise unknown_name("model provider", name, self.names)
        return self._made[name]

    async def readiness(self, has_secret: Callable[[str], bool]) -> list[Readiness]:
        """Each provider's state for `aegis doctor`: its key is there, or, without a key, its port answers. Costs no call."""
        checks = [_ready(self._specs[name], has_secret) for name in self._specs]
        scripted = Readiness(SCRIPTED, True, self.provider(SCRIPTED).description)
        return [scripted, *await asyncio.gather(*checks)]

    async def close(self) -> None:
        """Close every provider that was made."""
        made, self._made = self._made, {}
        for provider in made.values():
            await provider.close()


async def _ready(spec: ProviderSpec, has_secret: Callable[[str], bool]) -> Readiness:
    if spec.secret is not None:
        if has_secret(spec.secret):
            return Readiness(spec.name, True, f"key in secret `{spec.secret}`, {spec.base_url}")
        return Readiness(spec.name, False, f"no secret `{spec.secret}`", f"aegis secret set {spec.secret}")
    url = urlsplit(spec.base_url)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        async with asyncio.timeout(1.0):
            _, writer = await asyncio.open_connection(url.hostname, port)
        writer.close()
    except (OSError, TimeoutError):
        return Readiness(
            spec.name, False, f"nothing answers at {spec.base_url}", f"start {spec.name}, or declare `{spec.name}` with its base_url"
        )
    return Readiness(spec.name, True, f"answers at {spec.base_url}")
