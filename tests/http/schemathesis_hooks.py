"""What keeps schemathesis, which sends anything at all, from writing where it has no business and from waiting without need."""

from __future__ import annotations

import os
from typing import Any

import schemathesis

#: A directory that is the test's own, and an instance that lives as long as the test.
PLACE = os.environ["AEGIS_TEST_PLACE"]
KEPT = os.environ["AEGIS_TEST_KEPT"]


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Paths stay below `PLACE`, programs are harmless, reads end, and what asks for an instance mostly finds one."""
    query, body, places = case.query, case.body, case.path_parameters
    if isinstance(query, dict):
        query.pop("follow", None)
        query.pop("wait_ms", None)
    if isinstance(body, dict):
        for key, harmless in (("target", f"{PLACE}/none/x"), ("project", PLACE), ("command", ["true"])):
            if isinstance(body.get(key), str | list):
                body[key] = harmless
        for key in ("workspace", "record", "replay", "mounts"):
            body.pop(key, None)
    if "/instances/{name}" in case.path and case.method != "DELETE" and isinstance(places, dict) and "name" in places:
        places["name"] = KEPT
