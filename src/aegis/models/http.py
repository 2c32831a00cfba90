"""The `http` kind: a provider behind an HTTP API, passed through unchanged.

Guaranteed: the body goes up byte for byte and comes back as it arrives; before the first byte of an answer, failures that
may pass are tried again (`Retries`); no proxy variable of the machine applies; connections are kept for the next call. An
answer that refuses the key is replaced, and every error answer is searched for the key, because providers quote it. Where
only the body of an error says how long to wait, the answer gets a `retry-after` beside it.
"""

from __future__ import annotations

import logging
import math
import random
from typing import TYPE_CHECKING, Final

import httpx
import msgspec

from aegis.core.clock import Clock, SystemClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.version import __version__
from aegis.models import Dialect, Headers, ModelRequest, ModelResponse
from aegis.models.connections import Transport
from aegis.models.errors import error_body, error_type, retry_after, told_wait

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aegis.models.names import ProviderSpec

ANTHROPIC_VERSION: Final = "2023-06-01"
#: The most of an error answer that is read.
MAX_ERROR: Final = 64 * 1024
_RETRIED: Final = frozenset({408, 409, 429})
_FORWARDED: Final = frozenset({"anthropic-version", "anthropic-beta", "openai-beta", "accept", "content-type", "idempotency-key"})
_CREDENTIALS: Final[dict[Dialect, tuple[str, str]]] = {
    "anthropic": ("x-api-key", "{}"),
    "openai": ("authorization", "Bearer {}"),
    "responses": ("authorization", "Bearer {}"),
    "gemini": ("x-goog-api-key", "{}"),
}
_NO_ANSWER: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)

# At DEBUG, httpcore logs the headers of answers, in which a provider may quote the key.
logging.getLogger("httpcore").setLevel(logging.INFO)
logging.getLogger("httpx").setLevel(logging.WARNING)


class Retries(msgspec.Struct, frozen=True):
    """How often and how long to try again. Waits are random between 0 and a bound that doubles (full jitter), in seconds."""

    times: int = 3
    first: float = 0.5
    bound: float = 8.0
    longest_asked: float = 20.0  # a provider that asks for a longer wait than this gets its error passed on

    def delay(self, attempt: int, asked: float | None, random_between: Callable[[float, float], float]) -> float | None:
        """Seconds to wait after failed attempt number `attempt` (from 0), or None to give up."""
        if attempt >= self.times or (asked is not None and asked > self.longest_asked):
            return None
        if asked is not None:
            return asked
        return random_between(0.0, min(self.bound, self.first * 2.0**attempt))


class HttpProvider:
    """One declared provider. See `aegis.models.Provider`."""

    def __init__(
        self,
        spec: ProviderSpec,
        *,
        clock: Clock | None = None,
        retries: Retries | None = None,
        random_between: Callable[[float, float], float] = random.uniform,
        connect_timeout: float = 10.0,
        read_timeout: float = 600.0,
    ) -> None:
        self.name = spec.name
        self.dialects: frozenset[Dialect] = spec.dialects
        self.secret = spec.secret
        self.free = spec.free
        self.description = f"{' and '.join(sorted(spec.dialects))} dialect at {spec.base_url}"
        self._base = spec.base_url.rstrip("/")
        self._clock = clock or SystemClock()
        self._retries = retries or Retries()
        self._random_between = random_between
        self._timeout = httpx.Timeout(read_timeout, connect=connect_timeout, pool=None)
        self._client: httpx.AsyncClient | None = None

    async def stream(self, request: ModelRequest, credential: str | None) -> ModelResponse:
        """See `Provider.stream`."""
        url = self._base + request.path
        headers = self._headers(request, credential)
        attempt = 0
        sent = False
        while True:
            response: httpx.Response | None = None
            asked: float | None = None
            told: bytes | None = None
            try:
                client = self._connected()
                response = await client.send(client.build_request("POST", url, headers=headers, content=request.body), stream=True)
                if not _may_pass(response):
                    return await self._answer(request.dialect, response, credential)
                asked = retry_after(_headers_of(response), self._clock.now())
                if response.status_code == 429 and asked is None:
                    told = await _read_some(response)
                    asked = told_wait(told)
            except _NO_ANSWER as error:
                problem = _without(credential, f"{type(error).__name__}: {error}")
                sent = sent or not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            except httpx.HTTPError as error:
                raise self._unreachable(_without(credential, f"{type(error).__name__}: {error}"), sent=True) from None
            else:
                sent = True
            delay = self._retries.delay(attempt, asked, self._random_between)
            if delay is None:
                if response is None:
                    raise self._unreachable(problem, sent=sent)
                return await self._answer(request.dialect, response, credential, told)
            if response is not None:
                await response.aclose()
            await self._clock.sleep(delay)
            attempt += 1

    async def close(self) -> None:
        """See `Provider.close`."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _connected(self) -> httpx.AsyncClient:
        """The client, made on first use: loading certificates takes tens of milliseconds."""
        if self._client is None:
            transport = Transport(keepalive=32, expiry=60.0)
            self._client = httpx.AsyncClient(timeout=self._timeout, transport=transport, trust_env=False, follow_redirects=False)
        return self._client

    def _headers(self, request: ModelRequest, credential: str | None) -> dict[str, str]:
        headers = {name: value for name, value in request.headers if name in _FORWARDED}
        headers["content-type"] = "application/json"
        headers["accept-encoding"] = "identity"  # a compressed answer could not be watched for its usage as it passes
        headers["user-agent"] = f"aegis/{__version__}"
        if request.dialect == "anthropic":
            headers.setdefault("anthropic-version", ANTHROPIC_VERSION)
        if credential is not None:
            key = credential.strip()
            if not key or not key.isascii() or not key.isprintable() or " " in key:
                # httpx would say so too, and quote the value
                raise AegisError(
                    ErrorKind.USAGE,
                    f"secret `{self.secret}` is not a key that fits a header",
                    f"store it again: `aegis secret set {self.secret}`",
                )
            name, form = _CREDENTIALS[request.dialect]
            headers[name] = form.format(key)
        return headers

    async def _answer(self, dialect: Dialect, response: httpx.Response, credential: str | None, told: bytes | None = None) -> ModelResponse:
        """The answer as it goes back. Error answers are read here (or were: `told`), so that the key can be taken out of them."""
        headers = tuple((name, value) for name, value in _headers_of(response) if not (credential and credential.strip() in value))
        if response.status_code < 400:
            return ModelResponse(response.status_code, headers, _body(response, self.name), response.aclose)
        body = await _read_some(response) if told is None else told
        wait = told_wait(body) if response.status_code == 429 and "retry-after" not in response.headers else None
        if wait is not None:
            headers = (*headers, ("retry-after", str(math.ceil(wait))))
        # Gemini calls a wrong key a bad request
        if (response.status_code == 401 or b"API_KEY_INVALID" in body) and self.secret is not None:
            mend = f"store another with `aegis secret set {self.secret}`"
            message = f"model provider `{self.name}` rejects the key in secret `{self.secret}`; {mend}"
            body = error_body(dialect, message, status=response.status_code, type=error_type(401))
            headers = (*(pair for pair in headers if pair[0] != "content-type"), ("content-type", "application/json"))
        elif credential:
            body = body.replace(credential.strip().encode(), b"[key]")
        kept = tuple(pair for pair in headers if pair[0] not in ("content-length", "content-encoding"))
        return ModelResponse(response.status_code, kept, _one(body))

    def _unreachable(self, problem: str, *, sent: bool) -> AegisError:
        message = f"no answer from model provider `{self.name}` at {self._base}: {problem}"
        return AegisError(ErrorKind.UNREACHABLE, message, "`aegis doctor` says which models answer", sent=sent)


def _may_pass(response: httpx.Response) -> bool:
    """Whether the failure is one that a later attempt may not meet."""
    said = response.headers.get("x-should-retry")
    if said in ("true", "false"):
        return response.status_code >= 400 and said == "true"
    return response.status_code in _RETRIED or response.status_code >= 500


def _headers_of(response: httpx.Response) -> Headers:
    return tuple((name.lower(), value) for name, value in response.headers.multi_items())


async def _body(response: httpx.Response, provider: str) -> AsyncIterator[bytes]:
    """The bytes as they arrive; a broken connection becomes an AegisError."""
    try:
        async for data in response.aiter_bytes():
            yield data
    except httpx.HTTPError as error:
        raise AegisError(
            ErrorKind.UNREACHABLE, f"model provider `{provider}` broke off its answer ({type(error).__name__})", "try again"
        ) from None


async def _read_some(response: httpx.Response) -> bytes:
    """An error answer, cut at `MAX_ERROR`; a connection that breaks gives what had come."""
    parts: list[bytes] = []
    size = 0
    try:
        async for data in response.aiter_bytes():
            parts.append(data)
            size += len(data)
            if size >= MAX_ERROR:
                break
    except httpx.HTTPError:
        pass
    finally:
        await response.aclose()
    return b"".join(parts)[:MAX_ERROR]


async def _one(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _without(credential: str | None, text: str) -> str:
    return text.replace(credential.strip(), "[key]") if credential and credential.strip() else text
