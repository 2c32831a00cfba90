"""What of the memory goes into one request.

Sizes are estimates: a token is taken to be four bytes of UTF-8, the usual ratio of English text and code, plus a fixed
`BLOCK` tokens for what a provider wraps around each block. Text in other scripts has more bytes per character, so it is
counted dearer, as providers do. The true count is known only after the call.

Guaranteed: the newest message is always in, and so is the message that began the current turn; a tool call is never without
its result nor a result without its call; the estimate of the whole is within the budget (unless the budget is below
`CLIP` characters for each block that must be in). Memory itself is never changed.
"""

from __future__ import annotations

from aegis.guest.agent.memory import paired
from aegis.tether.jsontext import dumps_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Message = dict[str, Any]
    Block = dict[str, Any]

#: Tokens counted for each block beyond its content, and for a picture, which providers count by its size in pixels; the least
#: characters a part is cut to.
BLOCK = 8
IMAGE = 1600
CLIP = 64
_NO_ROOM = "[a picture is left out here, to fit the context]"
_LEFT_OUT = "[{} earlier steps of this turn are left out here, to fit the context]"


def tokens(text: str) -> int:
    """The estimate for a text."""
    return -(-len(text.encode("utf-8", "replace")) // 4)


def cost(messages: list[Message]) -> int:
    """The estimate for messages."""
    return sum(_cost(block) for message in messages for block in message["content"])


def clip(text: str, limit: int) -> str:
    """`text` in at most `limit` characters, cut in the middle with a mark that says how much is missing."""
    if len(text) <= limit:
        return text
    mark = f"\n[... {len(text) - limit} characters left out ...]\n"
    keep = max(0, limit - len(mark))
    tail = keep // 2
    return (text[: keep - tail] + mark + text[len(text) - tail :])[: max(limit, len(mark))]


def fit(messages: list[Message], budget: int) -> list[Message]:
    """The messages for a request of at most `budget` tokens, newest first: whole turns, then steps of the current turn."""
    *older, current = _split(paired(messages), _starts_turn) or [[]]
    head, *steps = _split(current, _starts_step) or [[]]
    last = steps.pop() if steps else []
    reserve = BLOCK + tokens(_LEFT_OUT.format(len(steps))) if steps else 0
    head, last = _shrink(head, last, budget - reserve)
    left = budget - reserve - cost(head) - cost(last)
    kept: list[Message] = []
    while steps and (size := cost(steps[-1])) <= left:
        kept = steps.pop() + kept
        left -= size
    if steps:
        note = {"type": "text", "text": _LEFT_OUT.format(len(steps))}
        return [*head[:-1], {**head[-1], "content": [*head[-1]["content"], note]}, *kept, *last]
    out = head + kept + last
    for turn in reversed(older):
        turn = _without_thinking(turn)
        if (size := cost(turn)) > left:
            break
        out = turn + out
        left -= size
    return out


def _cost(block: Block) -> int:
    return BLOCK + (IMAGE if block["type"] == "image" else sum(map(tokens, _strings(block))))


def _lengths(block: Block) -> list[int]:
    """The characters of the parts of a block, as far as they can be cut; a picture counts as the text of its cost."""
    return [4 * IMAGE] if block["type"] == "image" else [len(part) for part in _strings(block)]


def _strings(block: Block) -> list[str]:
    kind = block["type"]
    if kind == "tool_call":
        return [block["name"], dumps_text(block["input"]).decode()]
    return [str(block[name]) for name in ("text", "signature", "redacted", "output") if name in block]


def _starts_turn(message: Message, previous: Message) -> bool:
    # What the agent tells itself after an interruption has no ids and goes on with the turn that was cut.
    return message["role"] == "user" and (bool(message.get("ids")) or previous["role"] != "tool")


def _starts_step(message: Message, _: Message) -> bool:
    return bool(message["role"] == "assistant")


def _split(messages: list[Message], starts: Any) -> list[list[Message]]:
    out: list[list[Message]] = []
    for i, message in enumerate(messages):
        if not out or starts(message, messages[i - 1]):
            out.append([])
        out[-1].append(message)
    return out


def _without_thinking(messages: list[Message]) -> list[Message]:
    """Thinking matters to the provider only within the turn it belongs to."""
    lean = [{**m, "content": [b for b in m["content"] if b["type"] != "thinking"]} for m in messages]
    return [m for m in lean if m["content"]]


def _shrink(head: list[Message], last: list[Message], budget: int) -> tuple[list[Message], list[Message]]:
    """Cut the largest parts, all to the same length, so that both together fit."""
    if cost(head + last) <= budget:
        return head, last
    low, high = CLIP, max((size for m in head + last for b in m["content"] for size in _lengths(b)), default=CLIP)
    while low < high:
        middle = (low + high + 1) // 2
        if cost(_clipped(head, middle) + _clipped(last, middle)) <= budget:
            low = middle
        else:
            high = middle - 1
    return _clipped(head, low), _clipped(last, low)


def _clipped(messages: list[Message], limit: int) -> list[Message]:
    return [{**m, "content": [c for b in m["content"] if (c := _clipped_block(b, limit))]} for m in messages]


def _clipped_block(block: Block, limit: int) -> Block | None:
    kind = block["type"]
    if kind == "text":
        return {**block, "text": clip(block["text"], limit)}
    if kind == "tool_result":
        return {**block, "output": clip(block["output"], limit)}
    if kind == "tool_call":
        return {**block, "input": _clipped_value(block["input"], limit)}
    if kind == "image" and limit < 4 * IMAGE:
        return {"type": "text", "text": _NO_ROOM}
    # A signature holds for the whole thought only.
    return block if sum(map(len, _strings(block))) <= limit else None


def _clipped_value(value: Any, limit: int) -> Any:
    if isinstance(value, str):
        return clip(value, limit)
    if isinstance(value, dict):
        return {k: _clipped_value(v, limit) for k, v in value.items()}
    if isinstance(value, list):
        return [_clipped_value(v, limit) for v in value]
    return value
