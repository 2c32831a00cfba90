"""The model on its bad days, with each real program: what a person is told, that nothing hangs without a word, that it goes on after."""

from __future__ import annotations

import pytest
from tests.programs.conftest import Lab, finished, mostly_with, only

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def works(lab: Lab) -> None:
    """The next message has its answer, and nothing else."""
    end = finished(lab.ask("[[say fine]]"))
    assert (end["outcome"], end["text"].strip()) == ("completed", "fine"), end


def test_a_wrong_key(shared: Lab) -> None:
    asked = len(shared.server.calls)
    shared.server.fault(times=100, status=401)
    end = finished(shared.ask("[[say hello]]"))
    assert end["outcome"] == "failed"
    assert "401" in str(end["error"]), end
    assert len(shared.server.calls) - asked <= 3, "a wrong key was tried again and again"
    assert shared.client.instances.get("a")["activity"] == "idle"
    shared.server.mend()
    works(shared)


def test_a_short_limit_is_waited_for(shared: Lab) -> None:
    shared.server.fault(times=1, status=429, headers={"retry-after": "1"})
    end = finished(shared.ask("[[say at last]]"))
    assert (end["outcome"], end["text"].strip()) == ("completed", "at last"), end
    assert shared.client.instances.get("a")["activity"] == "idle"


@mostly_with("claude-code", "gemini")
def test_a_long_limit_holds_every_agent_of_the_provider(lab: Lab) -> None:
    lab.start()
    lab.server.fault(times=1000, status=429, headers={"retry-after": "4000"})
    first = lab.send("[[say at last]]")
    end = lab.until(first, lambda event: event["type"] == "turn.finished")[-1]["data"]
    assert (end["outcome"], end["error"]["will_continue"]) == ("limited", True), end
    asked = len(lab.server.calls)
    lab.start("b")
    second = lab.send("[[say me too]]", "b")
    for handle in "ab":
        info = lab.client.instances.get(handle)
        assert info["activity"] == "limited"
        assert info["activity_until"], info
    assert len(lab.server.calls) == asked, "a held provider was asked"
    lab.server.mend()
    lab.client.instances.act("a", "restart")
    assert finished(lab.turn(first))["text"].strip() == "at last"
    assert finished(lab.turn(second))["text"].strip() == "me too"
    assert {lab.client.instances.get(handle)["activity"] for handle in "ab"} == {"idle"}


@mostly_with("claude-code", "gemini")
def test_an_interrupt_tries_a_held_provider_at_once(lab: Lab) -> None:
    lab.start()
    lab.server.fault(times=1000, status=429, headers={"retry-after": "4000"})
    receipt = lab.send("[[say at last]]")
    lab.until(receipt, lambda event: event["type"] == "turn.finished")
    lab.server.mend()
    lab.client.mail.cancel("a")
    assert finished(lab.turn(receipt))["text"].strip() == "at last"


def test_half_a_stream(shared: Lab) -> None:
    shared.server.fault(cut_after=4)
    events = shared.ask("[[say one two three four five six seven]]")
    end = finished(events)
    assert end["outcome"] in ("completed", "failed"), end
    if end["outcome"] == "failed":
        assert end["error"]["error"]
    else:
        assert end["text"].strip().endswith("seven")
    works(shared)


def test_a_page_in_the_place_of_an_answer(shared: Lab) -> None:
    shared.server.fault(times=100, content_type="text/html", body=b"<html>Please log in to the hotel's network</html>")
    end = finished(shared.ask("[[say hello]]"))
    assert end["outcome"] == "failed"
    assert "base_url" in end["error"]["error"], end
    shared.server.mend()
    works(shared)


def test_failures_that_pass_are_told(shared: Lab) -> None:
    """While a program tries again, who watches knows it."""
    shared.server.fault(times=6, status=503)
    events = shared.ask("[[say got through]]")
    assert (finished(events)["outcome"], finished(events)["text"].strip()) == ("completed", "got through"), finished(events)
    told = only(events, "turn.retrying")
    assert told
    assert {retry["status"] for retry in told} == {503}
