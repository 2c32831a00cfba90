import re

from aegis.models import Usage
from aegis.models.names import FAMILIES
from aegis.models.prices import cost, price_of, table

SOME = Usage(input=1000, output=500)


def test_unknown_is_none_and_never_nothing() -> None:
    assert cost("anthropic/claude-of-the-future", SOME) is None
    assert cost("mine/x", SOME) is None
    assert cost("openai/claude-sonnet-4-5", SOME) is None


def test_what_this_machine_answers_is_exactly_free() -> None:
    for model in ("scripted/echo", "ollama/x", "lmstudio/x", "vllm/x"):
        assert cost(model, SOME) == 0.0
    assert cost("mine/x", SOME, free=True) == 0.0


def test_each_kind_of_token_has_its_price() -> None:
    usage = Usage(input=1_000_000, output=100_000, cached=600_000, cache_written=300_000, cache_written_1h=100_000)
    assert cost("anthropic/claude-haiku-4-5", usage) is None  # above its price's limit
    usage = Usage(input=100_000, output=10_000, cached=60_000, cache_written=30_000, cache_written_1h=10_000)
    expected = (10_000 * 3 + 60_000 * 0.3 + 20_000 * 3.75 + 10_000 * 6 + 10_000 * 15) / 1e6
    assert abs((cost("anthropic/claude-sonnet-4-5", usage) or 0) - expected) < 1e-12
    assert abs((cost("openai/gpt-4o", Usage(input=1000, output=10, cached=400)) or 0) - (600 * 2.5 + 400 * 1.25 + 10 * 10) / 1e6) < 1e-12


def test_a_snapshot_costs_what_its_model_costs() -> None:
    assert price_of("anthropic/claude-sonnet-4-5-20250929") == price_of("anthropic/claude-sonnet-4-5")
    assert price_of("openai/gpt-4o-2024-08-06") == price_of("openai/gpt-4o")
    assert price_of("anthropic/claude-sonnet-4-5-preview") is None


def test_gemini_and_the_families_have_prices() -> None:
    usage = Usage(input=1000, output=100, cached=400)
    assert abs((cost("gemini/gemini-3.1-pro-preview", usage) or 0) - (600 * 2 + 400 * 0.2 + 100 * 12) / 1e6) < 1e-12
    assert cost("gemini/gemini-3.1-pro-preview", Usage(input=200_001)) is None
    for model in FAMILIES.values():
        assert cost(model, usage)


def test_every_price_is_dated_and_sourced() -> None:
    for price in table().values():
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", price.as_of)
        assert price.source
        assert 0 < price.cached < price.input < price.output
