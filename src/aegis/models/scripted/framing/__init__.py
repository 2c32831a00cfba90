"""Writing a script's acts as an answer, streamed or whole: one framing for each dialect, as its official clients read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aegis.models.scripted.framing.anthropic import AnthropicFraming
from aegis.models.scripted.framing.base import Framing, estimate
from aegis.models.scripted.framing.gemini import GeminiFraming
from aegis.models.scripted.framing.openai import OpenAIFraming
from aegis.models.scripted.framing.responses import ResponsesFraming

if TYPE_CHECKING:
    from aegis.models import Dialect

__all__ = ["FRAMINGS", "Framing", "estimate"]

FRAMINGS: Final[dict[Dialect, type[Framing]]] = {
    "anthropic": AnthropicFraming,
    "openai": OpenAIFraming,
    "responses": ResponsesFraming,
    "gemini": GeminiFraming,
}
