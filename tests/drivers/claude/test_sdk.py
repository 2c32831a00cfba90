"""The recorded frames, read by the official SDK's parser: what the machine makes of them agrees with it."""

from __future__ import annotations

import json

import pytest
from tests.drivers.claude import scenes
from tests.drivers.claude.conftest import facts

from aegis.core.events import Text, Thinking, ToolCall, ToolResult
from aegis.drivers import Finished

pytest.importorskip("claude_agent_sdk", reason="pip install claude-agent-sdk")


@pytest.mark.parametrize("name", scenes.SCENES)
def test_the_same_is_told(name: str) -> None:
    from claude_agent_sdk import types
    from claude_agent_sdk._internal.message_parser import parse_message

    read = [json.loads(frame) for frame in scenes.frames_of(name)]
    kinds = {"assistant", "user", "system", "result", "stream_event"}
    told = [message for frame in read if frame["type"] in kinds and (message := parse_message(frame)) is not None]
    spoken = [message for message in told if isinstance(message, types.AssistantMessage) and not message.error]
    blocks = [block for message in spoken for block in message.content]
    heard = [
        block
        for message in told
        if isinstance(message, types.UserMessage) and isinstance(message.content, list)
        for block in message.content
        if isinstance(block, types.ToolResultBlock)
    ]
    events = scenes.replayed(name)
    assert [fact.text for fact in facts(events, Text)] == [block.text for block in blocks if isinstance(block, types.TextBlock)]
    assert [fact.text for fact in facts(events, Thinking)] == [block.thinking for block in blocks if isinstance(block, types.ThinkingBlock)]
    uses = [(block.id, block.name, block.input) for block in blocks if isinstance(block, types.ToolUseBlock)]
    assert [(fact.call_id, fact.name, fact.input) for fact in facts(events, ToolCall)] == uses
    assert [(fact.call_id, fact.ok) for fact in facts(events, ToolResult)] == [(block.tool_use_id, not block.is_error) for block in heard]
    results = [message for message in told if isinstance(message, types.ResultMessage)]
    ends = [event for event in events if isinstance(event, Finished)]
    assert [(end.rounds, end.error is None and end.outcome != "cancelled") for end in ends] == [
        (r.num_turns, not r.is_error) for r in results
    ]
