"""A trace from OpenTelemetry's SDK in the caller to the parts of the server's work.

Needs a server of examples/fraud at MILLRACE_SERVER that sends its spans to MILLRACE_TRACES (host:port), where the test
listens: scripts/test-clients.sh starts one.
"""

from __future__ import annotations

import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import millrace

SERVER, TRACES = os.environ.get("MILLRACE_SERVER"), os.environ.get("MILLRACE_TRACES")
CALL = "millrace.v1.ScoringService/Score"


@pytest.fixture
def collector():
    """The spans that come, as OTLP has them."""
    service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    spans = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            for resource in service.ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    host, port = TRACES.rsplit(":", 1)
    with ThreadingHTTPServer((host, int(port)), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield spans
        server.shutdown()


@pytest.mark.skipif(not (SERVER and TRACES), reason="MILLRACE_SERVER and MILLRACE_TRACES name no server")
def test_a_trace_goes_on_in_the_server(collector):
    tracer = pytest.importorskip("opentelemetry.sdk.trace").TracerProvider().get_tracer("checkout")
    event = {"tx_id": "traced", "card_id": "42", "terminal_id": "7", "amount": 9.5}
    event["event_time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with tracer.start_as_current_span("checkout") as span, millrace.Client(SERVER) as client:
        client.score([event])
    trace = span.get_span_context().trace_id.to_bytes(16, "big")

    deadline = time.monotonic() + 30
    ours = {}
    while CALL not in ours and time.monotonic() < deadline:
        time.sleep(0.1)
        ours = {span.name: span for span in collector if span.trace_id == trace}
    assert {CALL, "admission", "look-up", "model"} == set(ours)
    call = ours.pop(CALL)
    assert call.parent_span_id == span.get_span_context().span_id.to_bytes(8, "big")
    assert all(part.parent_span_id == call.span_id for part in ours.values())
