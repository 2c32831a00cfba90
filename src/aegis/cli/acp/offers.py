"""What a session can be set to, as the protocol tells it: modes, and options for the mode, the model and the effort."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aegis.client.shapes import InstanceInfo

#: Id of an option -> its name, its category in the protocol.
_OPTIONS: Final = {"model": ("Model", "model"), "mode": ("Mode", "mode"), "effort": ("Effort", "thought_level")}


class Offer:
    """What one session is set to, and may be."""

    def __init__(self, info: InstanceInfo, session: str, models: Iterable[str] = ()) -> None:
        entry = next((each for each in info["sessions"] if each["session"] == session), {})
        self.now: dict[str, str] = {name: str(entry.get(name) or info.get(name) or "") for name in _OPTIONS}
        self.title: str = entry.get("title") or ""
        context = entry.get("context") or {}
        self.size = int(context.get("size") or 0)
        known = {"model": models, "mode": info.get("modes") or (), "effort": info.get("efforts") or ()}
        self._known = {name: list(dict.fromkeys(filter(None, values))) for name, values in known.items()}

    def change(self, **values: str | None) -> bool:
        """It runs with these now; whether that is news."""
        before = dict(self.now)
        self.now |= {name: value for name, value in values.items() if value}
        return before != self.now

    def options(self) -> list[dict[str, Any]]:
        """The configuration options: those that are known and have something to choose from, or at least a value."""
        found = []
        for ident, (name, category) in _OPTIONS.items():
            values = self._values(ident)
            if self.now[ident] and values:
                choices = [{"value": value, "name": value} for value in values]
                about = {"id": ident, "name": name, "category": category, "type": "select"}
                found.append({**about, "currentValue": self.now[ident], "options": choices})
        return found

    def modes(self) -> dict[str, Any] | None:
        """The modes, for clients that know no options."""
        values = self._values("mode")
        if not self.now["mode"] or not values:
            return None
        return {"currentModeId": self.now["mode"], "availableModes": [{"id": value, "name": value} for value in values]}

    def told(self) -> dict[str, Any]:
        """The part of a response that opens a session."""
        modes = self.modes()
        return {"configOptions": self.options()} | ({"modes": modes} if modes else {})

    def _values(self, name: str) -> list[str]:
        now = self.now[name]
        return self._known[name] if not now or now in self._known[name] else [now, *self._known[name]]
