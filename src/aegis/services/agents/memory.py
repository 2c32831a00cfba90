"""The memory of conversations: every message a program has seen or said, in order, in the neutral form of `aegis.tether.frames`.

This is the authoritative copy. A program is started with it and adds to it record by record; nothing is ever changed or dropped.
Pictures are only named in it: they stay with the mail that they came with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from aegis.services.mail import Mail
    from aegis.store import Store, Tx

#: How many bytes of pictures a program is started with, but for those of one message; it shows its model no more than that.
MAX_PICTURES: Final = 18 * 1024 * 1024


def append(tx: Tx, *, instance: str, session: str, turn: str, ts: float, message: dict[str, Any]) -> None:
    """Add one message at the end of a conversation, inside the transaction of the turn's events."""
    tx.execute(
        "INSERT INTO memory (instance, session, n, turn, ts, message) "
        "VALUES (?, ?, (SELECT coalesce(max(n), 0) + 1 FROM memory WHERE instance = ? AND session = ?), ?, ?, ?)",
        (instance, session, instance, session, turn, ts, _kept(tx, message).decode()),
    )


def _kept(tx: Tx, message: dict[str, Any]) -> bytes:
    """A message as it is stored: nothing secret is in it. A thought that was changed loses its signature, which is for the whole of it."""
    data = msgspec.json.encode(message)
    clean = tx.clean(data)
    if clean != data and isinstance(content := message.get("content"), list):
        told: dict[str, Any] = msgspec.json.decode(clean)
        for before, after in zip(content, told["content"], strict=True):
            if before != after and isinstance(after, dict):
                after.pop("signature", None)
        clean = msgspec.json.encode(told)
    return clean


def copy(tx: Tx, instance: str, session: str, to: str) -> None:
    """Give the conversation of a session to another one of the instance, which has none."""
    tx.execute(
        "INSERT INTO memory (instance, session, n, turn, ts, message) "
        "SELECT instance, ?, n, turn, ts, message FROM memory WHERE instance = ? AND session = ?",
        (to, instance, session),
    )


async def history(store: Store, instance: str, session: str) -> list[dict[str, Any]]:
    """The whole conversation, oldest first, as a program is started with it."""
    rows = await store.query(
        lambda db: db.execute("SELECT message FROM memory WHERE instance = ? AND session = ? ORDER BY n", (instance, session)).fetchall()
    )
    return [msgspec.json.decode(row[0]) for row in rows]


async def with_pictures(mail: Mail, instance: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with the data of the newest pictures in them. A program in a sandbox wrote the names: only the instance's own count."""
    blocks = [b for m in messages for b in m.get("content", ()) if isinstance(b, dict) and b.get("type") == "image"]
    sizes = mail.image_sizes(list({str(b.get("message")) for b in blocks})) if blocks else {}
    wanted: dict[str, None] = {}
    room = MAX_PICTURES
    for block in reversed(blocks):
        name = str(block.get("message"))
        if name in sizes and name not in wanted:
            room -= sizes[name]
            if room < 0 and wanted:
                break
            wanted[name] = None
    found = await mail.images(instance, list(wanted)) if wanted else {}

    def filled(block: Any) -> Any:
        if isinstance(block, dict) and block.get("type") == "image":
            pictures, n = found.get(str(block.get("message")), []), block.get("n")
            if isinstance(n, int) and 0 <= n < len(pictures):
                return {**block, "data": pictures[n].data}
        return block

    return [{**m, "content": [filled(block) for block in m["content"]]} if m.get("content") else m for m in messages]


async def transcript(store: Store, instance: str, session: str, after: int = 0, limit: int = 500) -> list[dict[str, Any]]:
    """Messages with a number over `after`, each with `n`, `ts` and `turn`."""
    rows = await store.query(
        lambda db: db.execute(
            "SELECT n, ts, turn, message FROM memory WHERE instance = ? AND session = ? AND n > ? ORDER BY n LIMIT ?",
            (instance, session, after, limit),
        ).fetchall()
    )
    return [{"n": n, "ts": ts, "turn": turn} | msgspec.json.decode(message) for n, ts, turn, message in rows]
