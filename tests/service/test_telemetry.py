"""Traces, sent to a real OTLP endpoint on loopback."""

from __future__ import annotations

import http.server
import threading

import httpx
import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

TRACE = "0af7651916cd43dd8448eb211c80319c"
BODY = {"query": "Who wrote it?", "passages": ["George Eliot wrote it. It has eight parts."], "budget": {"keep": 0.5}}


@pytest.fixture
def collector():
    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()
        thread.join()


def test_a_request_and_its_stages_in_the_callers_trace(collector, make_settings, live_servers):
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    endpoint, received = collector
    server = live_servers(otlp_endpoint=endpoint)
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "x-request-id": "mine"}
    answer = httpx.post(f"{server.url}/v1/compress?secret=word", json=BODY, headers=headers)
    assert answer.status_code == 200
    server.stop()  # sends what is left
    assert {path for path, _ in received} == {"/v1/traces"}
    exported = [ExportTraceServiceRequest.FromString(data) for _, data in received]
    spans = [s for e in exported for r in e.resource_spans for scope in r.scope_spans for s in scope.spans]
    by_name = {span.name: span for span in spans}
    assert set(by_name) == {"POST /v1/compress", "queue", "compress"}
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    outer = by_name["POST /v1/compress"]
    assert by_name["compress"].parent_span_id == by_name["queue"].parent_span_id == outer.span_id
    assert outer.start_time_unix_nano <= by_name["queue"].start_time_unix_nano
    assert by_name["compress"].end_time_unix_nano <= outer.end_time_unix_nano
    attributes = {a.key: a.value for a in outer.attributes}
    assert attributes["http.response.status_code"].int_value == 200
    assert attributes["ctxcomp.request_id"].string_value == "mine"
    assert b"Eliot" not in b"".join(data for _, data in received)
    assert b"secret" not in b"".join(data for _, data in received)
