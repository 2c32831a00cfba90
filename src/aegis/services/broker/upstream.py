"""Asking whoever answers a call: its provider with the real key, or a recording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aegis.core.errors import AegisError, ErrorKind
from aegis.models import ModelRequest, ModelResponse, Provider
from aegis.services.broker.asking import chosen, not_its_model
from aegis.services.broker.body import with_model
from aegis.services.broker.model import LimitHit
from aegis.services.broker.refusals import NO_RETRY, Refusal, from_error, from_limit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aegis.services.broker.job import Job
    from aegis.services.broker.model import Call

#: What a program presents as its key; it goes no further.
_KEYS: Final = frozenset({"authorization", "x-api-key", "x-goog-api-key"})


class Upstream:
    """See `Broker` for the arguments."""

    def __init__(
        self,
        *,
        provider: Callable[[str], Provider],
        secret: Callable[[str], Awaitable[str | None]],
        admit: Callable[[Call], Awaitable[None]],
        held: Callable[[str], float | None],
    ) -> None:
        self._provider = provider
        self._secret = secret
        self._admit = admit
        self._held = held

    async def ask(self, job: Job) -> ModelResponse:
        """The answer. Raises Refusal where Aegis says no, AegisError where the provider gave no answer."""
        if chosen(job.client, job.asked.model) is None:
            raise not_its_model(job.client, job.asked.model)
        if job.client.replay is not None:
            return await self._replayed(job)
        call = job.call
        try:
            provider = self._provider(job.provider)
        except AegisError as error:
            raise from_error(error) from None
        if call.dialect not in provider.dialects:
            spoken = ", ".join(sorted(provider.dialects))
            message = f"model provider `{job.provider}` speaks the dialect {spoken}, and this request is in {call.dialect}"
            raise Refusal(400, message, headers=(NO_RETRY,))
        if (until := self._held(job.provider)) is not None:
            refusal = from_limit(LimitHit(job.provider, until, ""))
            call.limit = LimitHit(job.provider, until, refusal.message)
            raise refusal
        await self._admitted(call)
        credential = await self._credential(provider)
        model = call.model.partition("/")[2]
        request = ModelRequest(
            dialect=call.dialect,
            path=job.route.upstream(model),
            headers=tuple((name, value) for name, value in job.request.headers.items() if name not in _KEYS),
            body=with_model(job.request.body, job.asked, model),
            model=model,
        )
        if job.client.record is not None:
            job.take = await job.client.record.begin(call, job.route.name, job.request.body)
            if job.take is not None and credential is not None:
                job.take.credential = credential.strip() or None
        return await provider.stream(request, credential)

    async def _replayed(self, job: Job) -> ModelResponse:
        await self._admitted(job.call)
        assert job.client.replay is not None  # looked at by the caller
        try:
            return await job.client.replay.answer(job.call.session, job.route.name, job.request.body)
        except AegisError as error:
            if error.kind is ErrorKind.UNREACHABLE:
                raise
            # Gone: unlike a 400 or a 404 it makes no program try the same in another form.
            raise Refusal(410, f"{error.message}; {error.hint}", headers=(NO_RETRY,)) from None

    async def _admitted(self, call: Call) -> None:
        try:
            await self._admit(call)
        except AegisError as error:
            raise from_error(error) from None
        call.admitted = True

    async def _credential(self, provider: Provider) -> str | None:
        if provider.secret is None:
            return None
        try:
            value = await self._secret(provider.secret)
        except AegisError as error:
            raise from_error(error) from None
        if not value:
            message = (
                f"there is no key for model provider `{provider.name}`: store one on the host with `aegis secret set {provider.secret}`; "
                "`aegis doctor` shows which models are ready"
            )
            raise Refusal(401, message, headers=(NO_RETRY,))
        return value
