"""A client made of the OpenAPI document alone: it knows nothing of Aegis."""

from __future__ import annotations

import copy
import json
from typing import Any
from urllib.parse import quote

import jsonschema_rs
from tests.http.conftest import Answer, Api

_JSON = "application/json"


class Undocumented(AssertionError):
    """The daemon did what its document does not say."""


class Generated:
    """One method for all operations: `call(operationId, ...)`. Every answer is held against the document, strictly."""

    def __init__(self, api: Api, document: dict[str, Any]) -> None:
        self._api = api
        self._document = document
        self.operations = {
            operation["operationId"]: (method.upper(), path, operation)
            for path, item in document["paths"].items()
            for method, operation in item.items()
        }
        self.called: set[str] = set()
        self._components = copy.deepcopy(document["components"])
        for schema in self._components["schemas"].values():
            if schema.get("type") == "object" and "properties" in schema:
                schema.setdefault("additionalProperties", False)  # a key that nobody described is a fault here

    def call(self, name: str, body: Any = None, /, *, accept: str = _JSON, raw: bytes | None = None, **given: Any) -> Answer:
        """Ask for an operation; arguments are its parameters."""
        method, path, operation = self.operations[name]
        self.called.add(name)
        query = {}
        for parameter in operation.get("parameters", ()):
            value = given.pop(parameter["name"], None)
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", quote(str(value), safe=""))
            elif value is not None:
                query[parameter["name"]] = value
        assert not given, f"{name} takes no {sorted(given)}"
        wanted = operation.get("requestBody", {}).get("content", {})
        media = next(iter(wanted), None)
        assert body is None or media == _JSON, f"{name} takes no JSON"
        if body is not None:
            self._hold(name, wanted[_JSON]["schema"], body)
        headers = {"Accept": accept} | ({"Content-Type": media} if media and (body is not None or raw is not None) else {})
        answer = self._api.ask(method, path, query=query, body=body, raw=raw, headers=headers)
        self._check(name, operation, answer)
        return answer

    def _check(self, name: str, operation: dict[str, Any], answer: Answer) -> None:
        described = operation["responses"].get(str(answer.status))
        if described is None:
            raise Undocumented(f"{name}: {answer.status} is not in the document: {answer.body[:300]!r}")
        media = answer.headers["content-type"].partition(";")[0]
        content = described["content"].get(media)
        if content is None:
            raise Undocumented(f"{name}: {media} is not in the document")
        if media == _JSON:
            self._hold(name, content["schema"], answer.json)
        elif media == "application/x-ndjson":
            for line in filter(bytes.strip, answer.body.split(b"\n")):
                self._hold(name, content["x-item"], json.loads(line))

    def _hold(self, name: str, schema: dict[str, Any], value: Any) -> None:
        for error in jsonschema_rs.validator_for({**schema, "components": self._components}).iter_errors(value):
            raise Undocumented(f"{name}: {error.message[:300]} at {list(error.instance_path)}")
