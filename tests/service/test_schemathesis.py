"""Requests of every kind that the OpenAPI document allows, and many that it does not: no fault, and nothing that it does not tell."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from mlaas.auth.authenticator import LOCAL
from mlaas.jobs.states import State
from mlaas.models.bundle import write_bundle
from mlaas.server import openapi
from tests.service.service import server_alone
from tests.support import server, trained

THERE: dict[str, Any] = {"name": "tth", "id": "tth_1", "model": "ttH", "version": "1", "process_name": "tth_1", "alias": "best", "path": "model.py"}
"""Names of what the service holds, so that not every request is about nothing."""
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 10
ENDLESS = "follow_job"
"""Its answer ends with the job, which nobody runs here; tests/unit/test_server_api.py follows one."""


def document() -> dict[str, Any]:
    """The document, with names of what is there as examples."""
    found = openapi.document()
    for operations in found["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] in THERE and operation["operationId"] not in {"delete_version"}:
                    parameter["example"] = THERE[parameter["name"]]
    return found


SCHEMA = schemathesis.openapi.from_dict(document())
OPERATIONS = {found.ok().definition.raw["operationId"]: found.ok() for found in SCHEMA.get_all_operations()}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server that holds a workspace, jobs of every state and models."""
    folder = tmp_path_factory.mktemp("api")
    app = server.application(folder)
    parts = app.state.context
    server.upload(server.client(app, LOCAL))
    for state in State:
        job = server.job(parts, LOCAL, state, version=1 if state is State.SUCCEEDED else None)
        (parts.places.job(job.id) / "log.txt").write_text("line\n")
    write_bundle(folder / "m", trained.logistic(), trained.DOCUMENTS)
    for name in ("ttH", "tth_1"):
        parts.catalogue.repository.publish(folder / "m", LOCAL.tenant, name)
    parts.engine.dispose()
    with server_alone(folder / "data", queue_limit=20, inference_url="http://127.0.0.1:9") as (found, _process):
        yield found, (folder / "data" / "secrets" / "token").read_text().strip()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation", sorted(OPERATIONS.keys() - {ENDLESS}))
def test_every_answer_is_as_documented(address, operation, mode):
    url, token = address
    # what is passed on answers 503 without the inference service, as documented
    checks = CHECKS[1:] if operation == "predict" else CHECKS

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(OPERATIONS[operation].as_strategy(generation_mode=mode))
    def check(case):
        case.call_and_validate(base_url=url, headers={"Authorization": f"Bearer {token}"}, checks=checks)

    try:
        check()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # it takes nothing that could be wrong
