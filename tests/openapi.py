"""docs/openapi.yaml against what tests see: each answer is one that it has, with that content type and schema; and a whole run has
seen all that it has.

What is compared is (route, status, code). A code that any request can meet (components.responses any_...) needs to be seen once, at
whatever route; every other one, and each status of success, at each route that has it.
"""
import json
import re
from pathlib import Path

import jsonschema
import yaml

FILE = Path(__file__).resolve().parent.parent / "docs/openapi.yaml"
METHODS = ("get", "put", "post", "patch", "delete")


def codes_of(response):
    return set(response.get("content", {}).get("application/json", {}).get("examples", {}))


class Contract:
    """The document, as tests ask it."""

    def __init__(self, path=FILE):
        self.document = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        self.validators = {}
        self.common = {(int(name.removeprefix("any_")), code) for name, response in self.document["components"]["responses"].items()
                       for code in codes_of(response)}
        self.operations = {f"{method.upper()} {pattern}": operation for pattern, item in self.document["paths"].items()
                           for method, operation in item.items() if method in METHODS}

    def responses(self, route):
        """{status: response} of a route, or of a request that meets none."""
        if route in self.operations:
            return {int(status): self.followed(response) for status, response in self.operations[route]["responses"].items()}
        return {int(name.removeprefix("any_")): response for name, response in self.document["components"]["responses"].items()}

    def followed(self, node):
        """The node itself, or what it refers to."""
        if "$ref" not in node:
            return node
        found = self.document
        for name in node["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        return found

    def documented(self, route):
        """(status, code) that this route has."""
        return {(status, code) for status, response in self.responses(route).items() for code in codes_of(response) or {""}}

    def own(self):
        """(route, status, code) of all that is a route's own."""
        return {(route, *pair) for route in self.operations for pair in self.documented(route) if pair not in self.common}

    def undocumented(self, seen):
        """Of what was seen, that the document doesn't have."""
        return sorted(triple for triple in seen if triple[1:] not in self.documented(triple[0]))

    def unseen(self, seen):
        """Of what the document has, that wasn't seen: a route's own there, the common ones anywhere."""
        anywhere = {triple[1:] for triple in seen}
        return sorted(self.own() - set(seen)) + sorted(("any", *pair) for pair in self.common - anywhere)

    def complaint(self, route, answer):
        """What is wrong with an answer, or None. An error that isn't JSON came from libmicrohttpd (docs/API.md)."""
        pair = (answer.status, answer.code)
        if pair not in self.documented(route):
            return f"{route} doesn't have {pair} in docs/openapi.yaml"
        content = self.responses(route)[answer.status].get("content", {})
        kind = (answer.headers.get("Content-Type") or "").split(";")[0]
        if content and kind not in content:
            return f"{route} doesn't answer {answer.status} with {kind!r} in docs/openapi.yaml"
        if kind != "application/json":
            return None
        return self.mismatch((route, answer.status), content[kind]["schema"], answer.body)

    def validator(self, schema):
        return jsonschema.Draft202012Validator({**schema, "components": self.document["components"]})

    def mismatch(self, key, schema, body):
        validator = self.validators.get(key)
        if validator is None:
            validator = self.validators[key] = self.validator(schema)
        error = jsonschema.exceptions.best_match(validator.iter_errors(json.loads(body)))
        return error and f"{key[0]}: {'.'.join(map(str, error.absolute_path))}: {error.message[:600]}"


def bodies(contract):
    """(method, pattern, schema of the JSON body) of each route that takes one."""
    for route, operation in contract.operations.items():
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content:
            yield (*route.split(" "), contract.followed(content["schema"]))


def read_seen(path):
    """The triples that runs have written, a JSON list a line (tests/integration/conftest.py)."""
    return {tuple(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()} if path.exists() else set()


def shown(triple):
    return re.sub(" $", "", " ".join(map(str, triple)))
