"""schemathesis on the service's own OpenAPI; `python -m ctxcomp_eval.bench.service_fuzz` runs many more cases."""

from __future__ import annotations

import httpx
import pytest

pytest.importorskip("schemathesis")

from ctxcomp_eval.bench.service_fuzz import fuzz
from ctxcomp_service.auth import hash_key, new_key

CASES = 15


KEY = new_key()


@pytest.fixture(scope="module")
def url(live_server):
    return live_server(keys=({"id": "a", "tenant": "a", "sha256": hash_key(KEY)},))


def test_no_failure_and_nothing_undocumented(url):
    found = fuzz(url, cases=CASES, key=KEY, seed=1, phases="examples,fuzzing")
    assert found.cases > 50
    assert not found.failures
    assert set(found.operations) >= {"POST /v1/compress", "GET /v1/retrieve/{original_id}", "GET /v1/methods"}


def test_every_example_works_as_it_stands(url):
    schema = httpx.get(f"{url}/openapi.json").json()
    forms = schema["components"]["schemas"]
    example = forms["CompressRequest"]["examples"][0]
    assert httpx.post(f"{url}/v1/compress", json=example, headers={"x-api-key": KEY}).status_code == 200


def test_every_route_documents_its_errors(url):
    schema = httpx.get(f"{url}/openapi.json").json()
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            if path.startswith("/v1/"):
                assert {"400", "401", "422", "429", "500"} <= set(operation["responses"]), path
                assert operation["security"]
            for status, response in operation["responses"].items():
                if status in ("429", "503"):
                    assert "Retry-After" in response["headers"]
