"""How a program speaks to a model: the one word that drivers, the broker and providers share."""

from __future__ import annotations

from typing import Literal

#: Anthropic Messages, OpenAI Chat Completions, OpenAI Responses, Gemini generateContent.
Dialect = Literal["anthropic", "openai", "responses", "gemini"]
