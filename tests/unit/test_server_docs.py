"""The OpenAPI document and the table of endpoints say what the routes do."""

from __future__ import annotations

import json

import pytest
from fastapi.routing import APIRoute

from mlaas.server import openapi
from tests import openapi as written
from tests.support import server

OPERATIONS = [(path, method, operation) for path, operations in openapi.document()["paths"].items() for method, operation in operations.items()]
PUBLIC = {"get_service", "hello"}


def test_the_document_is_current():
    assert openapi.PATH.read_text() == openapi.text(), "mlaas/server/openapi.json is not current: make docs"


def test_the_table_of_endpoints_is_current():
    text = written.README.read_text()
    assert text == written.readme(text), "mlaas/server/README.md is not current: make docs"


def test_every_route_is_in_the_document(tmp_path):
    app = server.application(tmp_path)
    published = {"/upload", "/submit", "/status_docker", "/logs", "/model", "/setup_tfaas", "/delete_specs", "/delete_folder", "/hello"}
    routes = {(route.path.replace(":path", ""), method) for route in app.routes if isinstance(route, APIRoute) for method in route.methods}
    ours = {(path, method) for path, method in routes if (path.startswith("/api/") or path in published) and method != "HEAD"}
    assert ours == {(path, method.upper()) for path, method, _ in OPERATIONS}


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS, ids=lambda value: value if isinstance(value, str) else "")
def test_each_call_is_described(path, method, operation):
    assert operation["summary"]
    assert len(operation["operationId"]) > 3
    assert all(parameter.get("description") for parameter in operation.get("parameters", []))
    assert bool(operation.get("security")) == (operation["operationId"] not in PUBLIC)
    if operation["operationId"] not in PUBLIC:
        assert {"401", "403"} <= operation["responses"].keys()
    for status, answer in operation["responses"].items():
        assert answer.get("description") or answer["$ref"], status


def test_references_lead_somewhere():
    text = openapi.text()
    document = json.loads(text)
    for kind in ("schemas", "responses"):
        for name in document["components"][kind]:
            assert f'"#/components/{kind}/{name}"' in text or kind == "responses", name
    used = {part.split('"')[0] for part in text.split('"#/components/')[1:]}
    assert all(name in document["components"][kind] for kind, _, name in (reference.partition("/") for reference in used))
