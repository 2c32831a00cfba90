"""Model names, `provider/model`, and what is known of each provider."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.models import Dialect

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PROVIDER: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_MODEL: Final = re.compile(r"[!-~]{1,200}")  # printable ASCII without the space


class ModelName(NamedTuple):
    """A parsed name. `str()` gives `provider/model` back."""

    provider: str
    model: str

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"


class ProviderSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A provider as it is built in or declared by a person."""

    name: str
    base_url: str  # of the API: the root for `anthropic` and `gemini`, the part before `/chat/completions` for `openai`
    dialect: Dialect
    secret: str | None = None  # the name of the secret that holds its key
    free: bool = False  # calls cost no money

    @property
    def dialects(self) -> frozenset[Dialect]:
        """All that it speaks: who has Chat Completions has Responses beside it."""
        return frozenset({"openai", "responses"}) if self.dialect == "openai" else frozenset({self.dialect})

    @property
    def supply(self) -> str:
        """What its limits are kept under: another project may mean another place by the same name."""
        return f"{self.name} at {self.base_url}"


#: What is known without a declaration. `scripted` is not here: it has no URL.
BUILT_IN: Final[dict[str, ProviderSpec]] = {
    spec.name: spec
    for spec in (
        ProviderSpec(name="anthropic", base_url="https://api.anthropic.com", dialect="anthropic", secret="ANTHROPIC_API_KEY"),
        ProviderSpec(name="openai", base_url="https://api.openai.com/v1", dialect="openai", secret="OPENAI_API_KEY"),
        ProviderSpec(name="gemini", base_url="https://generativelanguage.googleapis.com", dialect="gemini", secret="GEMINI_API_KEY"),
        ProviderSpec(name="ollama", base_url="http://127.0.0.1:11434/v1", dialect="openai", free=True),
        ProviderSpec(name="lmstudio", base_url="http://127.0.0.1:1234/v1", dialect="openai", free=True),
        ProviderSpec(name="vllm", base_url="http://127.0.0.1:8000/v1", dialect="openai", free=True),
    )
}
SCRIPTED: Final = "scripted"
#: The models of the scripted provider.
SCRIPTS: Final = ("demo", "directives", "echo")

#: Words for the newest model of a family, which people say instead of a version. A declaration may replace or add some.
FAMILIES: Final[Mapping[str, str]] = {
    "opus": "anthropic/claude-opus-5-5",
    "sonnet": "anthropic/claude-sonnet-5-5",
    "haiku": "anthropic/claude-haiku-5-5",
    "pro": "gemini/gemini-3.1-pro-preview",
    "flash": "gemini/gemini-3.8-flash",
}


def resolve(name: str, declared: Mapping[str, str] | None = None) -> str:
    """`name` with a word for a family replaced by the model it means; any other name as it is. `declared` goes before `FAMILIES`.

    Whether the result is a model name is for `parse` to say.
    """
    return {**FAMILIES, **(declared or {})}.get(name, name)


def parse(name: str, providers: Iterable[str] = (*BUILT_IN, SCRIPTED)) -> ModelName:
    """Read `provider/model`; the model may itself contain slashes.

    Raises AegisError: USAGE for a name of another form, NOT_FOUND with the nearest known one for an unknown provider.
    """
    provider, slash, model = name.partition("/")
    if not slash or not _MODEL.fullmatch(model):
        raise AegisError(
            ErrorKind.USAGE,
            f"{name[:80]!r} is not a model name",
            "write `provider/model`, for example `anthropic/claude-sonnet-4-5` or `scripted/demo`",
        )
    if provider not in providers:
        raise unknown_name("model provider", provider, providers, "declare others with a `base_url`")
    return ModelName(provider, model)


def check_spec(spec: ProviderSpec) -> ProviderSpec:
    """Return a declared provider if it can be used, else raise a USAGE error that names the field."""
    if not _PROVIDER.fullmatch(spec.name) or spec.name == SCRIPTED:
        raise AegisError(
            ErrorKind.USAGE,
            f"{spec.name[:40]!r} cannot name a model provider",
            "use lower-case letters, digits, `_` and `-`; `scripted` is built in",
        )
    url = urlsplit(spec.base_url)
    if url.scheme not in ("http", "https") or not url.hostname or url.username or url.password or url.query or url.fragment:
        raise AegisError(
            ErrorKind.USAGE,
            f"the base_url of model provider `{spec.name}` is not usable",
            "write http(s)://host[:port][/path] without a key; name the key in `secret`",
        )
    return spec


def merge(declared: Mapping[str, ProviderSpec]) -> dict[str, ProviderSpec]:
    """The built-in providers with the declared ones added; a declared one replaces a built-in of its name."""
    return {**BUILT_IN, **{name: check_spec(spec) for name, spec in declared.items()}}
