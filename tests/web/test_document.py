"""The OpenAPI document: complete, self-consistent, and the one that is checked in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from tests.support import openapi_docs
from tests.web.world import World
from web.api.queries import TaskListQuerySchema
from web.auth import guard_of

API_PAGE = openapi_docs.PAGE.with_name("api.md")
METHODS = {"get", "post", "put", "patch", "delete"}
#: What they answer is kept nowhere as it was answered, so a repeat can't be answered with it.
SECRETS_SHOWN_ONCE = {"/api/tokens", "/api/sign-in-links", "/api/runs/{run_id}/callbacks"}


@pytest.fixture
def document(world: World) -> dict[str, Any]:
    """The document as it is served."""
    answer = world.call("GET", "/api/openapi.json", token=None)
    assert answer.mimetype == "application/json"
    found: dict[str, Any] = answer.get_json()
    return found


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method in METHODS:
                yield path, method.upper(), operation


def _is_page(app: Flask, endpoint: str) -> bool:
    guard = guard_of(app.view_functions[endpoint])
    return guard is not None and guard.page


def test_every_route_and_method_is_listed_and_no_other(app: Flask, document: dict[str, Any]) -> None:
    """The document and the map of URLs name the same operations; pages are no operations."""
    served = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method)
        for rule in app.url_map.iter_rules()
        if not _is_page(app, rule.endpoint)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert {(path, method) for path, method, _ in _operations(document)} == served
    assert document["openapi"] == "3.1.0"


def test_every_operation_says_what_it_takes_answers_and_needs(app: Flask, document: dict[str, Any]) -> None:
    """Each has a summary, a tag, an id of its own, success and error schemas, its path parameters, and its token."""
    guards = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method): guard_of(app.view_functions[rule.endpoint])
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
    }
    tags = {tag["name"] for tag in document["tags"]}
    ids = []
    for path, method, operation in _operations(document):
        assert operation["summary"], path
        assert set(operation["tags"]) <= tags, path
        ids.append(operation["operationId"])
        successes = [answer for status, answer in operation["responses"].items() if status.startswith("2")]
        assert successes, path
        kinds = [kind for answer in successes for kind in answer["content"].items()]
        assert all("$ref" in said["schema"] or kind != "application/json" for kind, said in kinds), path
        assert operation["responses"]["default"] == {"$ref": "#/components/responses/DEFAULT_ERROR"}
        guard = guards[path, method]
        assert guard is not None
        assert operation["security"] == ([] if guard.scope == "public" else [{guard.scope: []}]), path
        assert operation.get("x-needed-role", "") == guard.role, path
        assert not guard.role or f"Least role: {guard.role}." in operation["description"], path
        named = {row["name"] for row in document["paths"][path].get("parameters", []) if row["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path))
    assert len(ids) == len(set(ids))


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    """No schema, answer or kind of token is named that the document doesn't hold."""
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document))):
        found: Any = document
        for part in reference.split("/"):
            assert part in found, reference
            found = found[part]
    assert set(document["components"]["securitySchemes"]) == {
        "api", "node", "workspace", "bootstrap", "metrics", "run",
    }  # fmt: skip


def test_every_field_and_parameter_is_described(document: dict[str, Any]) -> None:
    """Whoever reads the document has nothing else: no field of a schema, no part of a path or query is without a word."""
    bare = [
        f"{name}.{field}"
        for name, schema in document["components"]["schemas"].items()
        for field, said in schema.get("properties", {}).items()
        if not said.get("description", "").strip()
    ]
    named = [
        (path, row)
        for path, operations in document["paths"].items()
        for part in (operations, *(operations[method] for method in METHODS & set(operations)))
        for row in part.get("parameters", [])
    ]
    bare += [f"{path} {row['name']}" for path, row in named if not row.get("description", "").strip()]
    assert bare == []
    assert len(named) > 50


def test_every_query_and_header_that_a_route_knows_is_listed(app: Flask, document: dict[str, Any]) -> None:
    """Also where a route knows headers beside its query."""

    def listed(path: str, method: str = "get") -> set[str]:
        return {row["name"] for row in document["paths"][path][method]["parameters"]}

    assert listed("/api/events") == {"after", "limit", "Last-Event-ID", "If-None-Match"}
    assert listed("/api/tasks") == {*TaskListQuerySchema().fields, "If-None-Match"}
    assert listed("/api/tasks", "post") == {"Idempotency-Key"}
    writes = [
        (path, operation)
        for path, method, operation in _operations(document)
        if method != "GET" and path.startswith("/api/") and path not in SECRETS_SHOWN_ONCE
    ]
    assert [
        path for path, said in writes if "Idempotency-Key" not in {row["name"] for row in said.get("parameters", ())}
    ] == []  # fmt: skip
    reads = [
        (path, operation)
        for path, method, operation in _operations(document)
        if method == "GET" and operation["security"] == [{"api": []}]
    ]
    assert [path for path, said in reads if "304" not in said["responses"]] == []


def test_the_page_on_the_api_names_the_writes_that_look_at_no_key(document: dict[str, Any]) -> None:
    """It says of all others that a repeat with the same key is safe."""
    page = API_PAGE.read_text(encoding="utf-8")
    for path in SECRETS_SHOWN_ONCE:
        assert document["paths"][path]["post"].get("parameters", []) == [], path
        assert f"`POST {re.sub('{.*?}', '<id>', path)}`" in page


def test_what_being_ready_means_is_told_as_it_is(world: World, document: dict[str, Any]) -> None:
    """Each check that is made is named, by the document and by the page: worker and beat are checked as the stores are."""
    operation = document["paths"]["/readyz"]["get"]
    checks = set(re.findall(r"`(\w+)`", operation["description"]))
    answer = world.call("GET", "/readyz", token=None).get_json()
    made = set(answer["checks"] if "checks" in answer else answer["error"]["detail"]["checks"])
    assert made <= checks == {
        "database", "redis", "migrations", "database_writes", "redis_writes", "worker", "beat"
    }  # fmt: skip
    page = API_PAGE.read_text(encoding="utf-8")
    assert [name for name in checks if f"`{name}`" not in page] == []


def test_every_refusal_that_may_pass_says_when_to_ask_again(document: dict[str, Any]) -> None:
    """429 and 503 name the header."""
    for path, _, operation in _operations(document):
        for status in {"429", "503"} & set(operation["responses"]):
            assert "Retry-After" in operation["responses"][status]["headers"], path


def test_secrets_are_only_taken(document: dict[str, Any]) -> None:
    """The document shows secrets as something that is written and never read."""
    schemas = document["components"]["schemas"]
    assert schemas["TaskSpec"]["properties"]["secrets"]["writeOnly"] is True
    assert "secrets" not in schemas["Task"]["properties"]


def test_the_document_that_is_checked_in_is_the_one_that_is_served(document: dict[str, Any]) -> None:
    """docs/reference/openapi.json is up to date; else run: python -m tests.support.openapi_docs."""
    assert openapi_docs.PAGE.read_text(encoding="utf-8") == openapi_docs.render()
    assert json.loads(openapi_docs.render()) == document
