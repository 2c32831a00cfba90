"""What holds of any rules and any calls: default deny, forbid wins, a list that is empty allows nothing, order does not matter."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aegis.core.errors import AegisError
from aegis.core.principals import Principal, PrincipalKind
from aegis.services.gate import Effect, Facet, rules
from aegis.services.gate.contexts import Capability, Context, compiled
from aegis.services.gate.entities import UNKNOWN
from aegis.services.gate.judging import Judge, Judged
from aegis.services.gate.policies import InForce, Policies, parse
from aegis.services.gate.reading import Place
from aegis.services.gate.shards import Shards

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
AGENTS, COMMANDS, TOOLS = ("a", "b"), ("git", "ls", "rm"), ("cmd.run", "fs.read")
FACTS = UNKNOWN | {"handle": "h", "agent": "a"}

rule = st.builds(
    lambda effect, agent, command, tool: (
        f'{effect} (principal is Instance, action == Action::"tool.call", resource{f" == Tool::{chr(34)}{tool}{chr(34)}" if tool else ""}) when '
        f"{{ true{f' && principal.agent == {chr(34)}{agent}{chr(34)}' if agent else ''}"
        f"{f' && context has command && context.command == {chr(34)}{command}{chr(34)}' if command else ''} }};\n"
    ),
    st.sampled_from(["permit", "forbid", '@ask("w") forbid']),
    st.sampled_from([None, *AGENTS]),
    st.sampled_from([None, *COMMANDS]),
    st.sampled_from([None, *TOOLS]),
)
facet = st.builds(lambda command: Facet(command=command), st.sampled_from(COMMANDS))


def judged(texts: list[str], facets: list[Facet], *, contexts: dict[str, Context] | None = None, security: tuple[str, ...] = ()) -> Judged:
    made = rules.read("".join(texts), "f.cedar", "home") if texts else []
    made += [each for context in (contexts or {}).values() for each in compiled(context, "home")]
    force = InForce(Shards(made), contexts or {}, "")
    call = Effect(tool="cmd.run", facets=tuple(facets))
    return Judge(Policies(lambda: 0.0)).by(force, FACTS | {"security": security}, "tool.call", "cmd.run", call, None, "")


def matches(text: str, facet: Facet) -> bool:
    """Whether a rule of the strategy is about a call of `cmd.run` by the agent `a`, told from its text alone."""
    of = {f'agent == "{name}"' for name in AGENTS if name != "a"} | {f'command == "{name}"' for name in COMMANDS if name != facet.command}
    return not any(wrong in text for wrong in of) and 'Tool::"fs.read"' not in text


@QUICK
@given(st.lists(rule, max_size=8), st.lists(facet, min_size=1, max_size=4))
def test_what_any_rules_say(texts: list[str], facets: list[Facet]) -> None:
    said = judged(texts, facets)
    for each in facets:
        about = [text for text in texts if matches(text, each)]
        permitted = any(text.startswith("permit") for text in about)
        forbidden = any(text.startswith("forbid") for text in about)
        asked = any(text.startswith("@ask") for text in about)
        if not permitted or forbidden:
            assert not said.allow
            assert not said.ask
        elif asked:
            assert not said.allow
    if not said.allow and not said.ask:
        assert said.reason


@QUICK
@given(st.lists(rule, max_size=8).flatmap(lambda texts: st.tuples(st.just(texts), st.permutations(texts))), st.lists(facet, max_size=3))
def test_the_order_of_rules_does_not_matter(pair: tuple[list[str], list[str]], facets: list[Facet]) -> None:
    one, other = judged(pair[0], facets), judged(list(pair[1]), facets)
    assert (one.allow, one.ask) == (other.allow, other.ask)


@QUICK
@given(st.lists(rule, max_size=6), st.lists(facet, min_size=1, max_size=3), st.lists(rule, max_size=3))
def test_a_further_forbid_never_allows_more(texts: list[str], facets: list[Facet], more: list[str]) -> None:
    forbids = [text for text in more if not text.startswith("permit")]
    if judged(texts + forbids, facets).allow:
        assert judged(texts, facets).allow


@QUICK
@given(
    st.sampled_from(["paths", "commands", "domains"]),
    st.lists(
        st.one_of(facet, st.builds(lambda p: Facet(path=p), st.text(min_size=1)), st.builds(lambda h: Facet(host=h), st.text(min_size=1)))
    ),
)
def test_an_empty_list_allows_nothing_of_its_kind(key: str, facets: list[Facet]) -> None:
    place = Place("c.yaml", 1, 1)
    context = Context("c", place, "", (Capability(place, "*", **{key: ()}),), ())
    said = judged([], facets, contexts={"c": context}, security=("c",))
    touched = {"paths": "path", "commands": "command", "domains": "host"}[key]
    if not facets or any(getattr(each, touched) is not None for each in facets):
        assert not said.allow


@QUICK
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    for name in ("f.cedar", "f.yaml"):
        try:
            parse(text.encode("utf-8", "surrogatepass"), name, "home")
        except AegisError as error:
            assert error.message.startswith(name)


@QUICK
@given(
    st.text(st.sampled_from('permitforbd(){}[];,.:=&|!"\\@<>+-*?/ \n'), max_size=80),
    st.sampled_from(["", "principal, action, resource) when { "]),
)
def test_any_piece_of_a_rule_is_read_or_refused(text: str, before: str) -> None:
    try:
        rules.read(f"permit({before}{text}", "f.cedar", "home")
    except AegisError as error:
        assert error.message.startswith("f.cedar")


@QUICK
@given(st.text(), st.text(), st.sampled_from(["tool.call", "model.call", "mail.send", "egress.connect", "secret.use", "no.action"]))
def test_names_that_nobody_has_are_denied(handle: str, resource: str, action: str) -> None:
    judge = Judge(Policies(lambda: 0.0))
    who = Principal(PrincipalKind.INSTANCE, handle)
    said = judge.judge(who, action, resource, None, None)
    assert said.allow is (action in ("model.call", "egress.connect", "secret.use"))
