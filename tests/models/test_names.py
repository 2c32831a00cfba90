import pytest

from aegis.core.errors import AegisError, ErrorKind
from aegis.models.catalogue import Catalogue
from aegis.models.names import BUILT_IN, FAMILIES, ModelName, ProviderSpec, check_spec, parse, resolve


def test_a_model_may_contain_slashes() -> None:
    assert parse("anthropic/claude-x") == ModelName("anthropic", "claude-x")
    assert parse("vllm/org/model:8b") == ModelName("vllm", "org/model:8b")
    assert str(parse("scripted/demo")) == "scripted/demo"


@pytest.mark.parametrize(
    "name", ["", "claude", "/x", "anthropic/", "anthropic/a b", "anthropic/ä", "anthropic/a\nb", "anthropic/" + "x" * 201]
)
def test_other_forms_are_refused(name: str) -> None:
    with pytest.raises(AegisError) as caught:
        parse(name)
    assert caught.value.kind in (ErrorKind.USAGE, ErrorKind.NOT_FOUND)


def test_an_unknown_provider_names_the_nearest() -> None:
    with pytest.raises(AegisError) as caught:
        parse("antropic/claude-x")
    assert caught.value.kind is ErrorKind.NOT_FOUND
    assert caught.value.data["nearest"] == "anthropic"


def test_a_family_means_its_newest_model() -> None:
    for word in FAMILIES:
        name = parse(resolve(word))
        assert name.provider in BUILT_IN
    assert parse(resolve("sonnet")).provider == "anthropic"
    assert parse(resolve("flash")).provider == "gemini"
    assert resolve("openai/gpt-5") == "openai/gpt-5"
    assert resolve("unknown") == "unknown"
    assert resolve("opus", {"opus": "mine/x"}) == "mine/x"
    assert resolve("fast", {"fast": "mine/y"}) == "mine/y"


def test_what_a_provider_speaks_follows_from_its_dialect() -> None:
    assert BUILT_IN["openai"].dialects == {"openai", "responses"}
    assert BUILT_IN["gemini"].dialects == {"gemini"}
    assert BUILT_IN["anthropic"].dialects == {"anthropic"}
    assert ProviderSpec(name="mine", base_url="http://h", dialect="responses").dialects == {"responses"}


@pytest.mark.parametrize("url", ["ftp://h", "h:1", "http://", "http://u:p@h", "http://h?key=1", "http://h#x"])
def test_a_declared_provider_needs_a_plain_url(url: str) -> None:
    with pytest.raises(AegisError, match="mine"):
        check_spec(ProviderSpec(name="mine", base_url=url, dialect="openai"))


@pytest.mark.parametrize("name", ["scripted", "", "Mine", "a b", "a/b"])
def test_a_declared_provider_needs_a_usable_name(name: str) -> None:
    with pytest.raises(AegisError):
        check_spec(ProviderSpec(name=name, base_url="http://h", dialect="openai"))


async def test_the_catalogue_finds_declared_providers_and_tells_what_is_ready() -> None:
    mine = ProviderSpec(name="mine", base_url="http://127.0.0.1:1/v1", dialect="openai")
    keyed = ProviderSpec(name="keyed", base_url="http://127.0.0.1:1", dialect="anthropic", secret="KEYED")
    local = {
        name: ProviderSpec(name=name, base_url="http://127.0.0.1:1/v1", dialect="openai", free=True)
        for name in ("ollama", "lmstudio", "vllm")
    }
    catalogue = Catalogue({"mine": mine, "keyed": keyed, **local})
    assert catalogue.parse("mine/x") == ModelName("mine", "x")
    assert catalogue.provider("mine") is catalogue.provider("mine")
    assert catalogue.provider("keyed").secret == "KEYED"
    with pytest.raises(AegisError, match="keyd"):
        catalogue.provider("keyd")
    ready = {one.name: one for one in await catalogue.readiness(lambda name: name == "ANTHROPIC_API_KEY")}
    assert ready["scripted"].ok
    assert "not a real model" in ready["scripted"].detail
    assert ready["anthropic"].ok
    assert not ready["keyed"].ok
    assert ready["keyed"].mend == "aegis secret set KEYED"
    assert not ready["mine"].ok
    await catalogue.close()
