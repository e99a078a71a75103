"""The client against a server in this process (`fake_server.py`), and a real one where MILLRACE_SERVER is set."""

import json
import os
import subprocess
import time
from datetime import datetime, timedelta, timezone

import grpc
import numpy as np
import pandas as pd
import pytest
from fake_server import Fake, Refusal, serving

import millrace
from millrace import Client, EntityStatus, Tls, ViewStatus
from millrace.columns import decode

AS_OF = datetime(2024, 5, 1, 12, tzinfo=timezone.utc)
NOW = datetime.fromtimestamp(1_700_000_000, timezone.utc) + timedelta(microseconds=123_456)
LAST_SEEN = datetime.fromtimestamp(1_600_000_000, timezone.utc) + timedelta(microseconds=5)
BOTH = ["card_activity", "terminal_risk:frauds_28d", "terminal_risk:night"]
KEYS = {"card_id": ["42", "43", "44"], "terminal_id": ["7", "8", "7"]}
ROWS = [
    ("42", "7", 3, 12.5, LAST_SEEN, 1, True),
    ("43", "8", 0, None, None, None, None),
    ("44", "7", None, None, None, 1, True),
]
COLUMNS = ["card_id", "terminal_id", "card_activity__tx_count_1h", "card_activity__amount_avg_7d"]
COLUMNS += ["card_activity__last_seen", "terminal_risk__frauds_28d", "terminal_risk__night"]


@pytest.fixture
def fake():
    return Fake()


@pytest.fixture
def client(fake):
    with serving(fake) as port, Client(f"127.0.0.1:{port}", token="secret\n", timeout=5) as client:
        yield client


# ------------------------------------------------------------------------------------------------------- features


def test_features_as_rows(client):
    answer = client.get_features(BOTH, KEYS, AS_OF)
    assert answer.rows() == [dict(zip(COLUMNS, row)) for row in ROWS]
    assert [row["card_activity__entity_status"] for row in answer.rows(statuses=True)] == [
        "present",
        "present",
        "unknown",
    ]
    assert (len(answer), answer.as_of) == (3, AS_OF)
    assert client.get_features(BOTH, KEYS).as_of == NOW
    assert client.get_features(BOTH, {name: [] for name in KEYS}).rows() == []


def test_what_a_view_says(client):
    views = client.get_features(BOTH, KEYS).views
    assert list(views) == ["card_activity", "terminal_risk"]
    assert views["card_activity"].complete_until == datetime.fromtimestamp(1_699_999_990, timezone.utc)
    assert views["terminal_risk"].complete_until is None
    assert views["terminal_risk"].answers_since is None
    assert views["terminal_risk"].status is ViewStatus.BEHIND
    assert views["terminal_risk"].statuses == [EntityStatus.PRESENT, EntityStatus.UNKNOWN, EntityStatus.PRESENT]
    assert views["terminal_risk"].version == "v1"
    assert views["terminal_risk"].features == ("frauds_28d", "night")
    assert views["terminal_risk"]["frauds_28d"] == [1, None, 1]


def test_features_in_arrow(client):
    table = client.get_features(BOTH, KEYS).to_arrow(statuses=True)
    types = ["string", "string", "int64", "double", "timestamp[us, tz=UTC]", "int64", "bool", "string", "string"]
    assert list(map(str, table.schema.types)) == types
    assert [tuple(row.values())[:7] for row in table.to_pylist()] == ROWS
    assert table.column_names[7:] == ["card_activity__entity_status", "terminal_risk__entity_status"]


def test_features_in_pandas_keep_the_index(client):
    keys = pd.DataFrame(KEYS, index=[10, 20, 30])
    frame = client.get_features(BOTH, keys).to_pandas()
    assert list(frame.columns) == COLUMNS
    assert list(frame.index) == [10, 20, 30]
    rows = [tuple(None if pd.isna(value) else value for value in row) for row in frame.itertuples(index=False)]
    assert rows == ROWS
    assert client.get_features(BOTH, KEYS).to_pandas(statuses=True)["terminal_risk__entity_status"][1] == "unknown"


@pytest.mark.parametrize("keys", [np.array(["42", "44"]), pd.Series(["42", "44"], index=[7, 8]), ("42", "44")])
def test_keys_come_as_they_are(client, keys):
    answer = client.get_features(["card_activity:tx_count_1h"], {"card_id": keys})
    assert [row["card_activity__tx_count_1h"] for row in answer.rows()] == [3, None]


def test_a_stream_comes_in_parts(client):
    keys = pd.DataFrame({"card_id": ["42", "43", "44", None, "42"]}, index=list("abcde"))
    parts = list(client.stream_features(["card_activity:tx_count_1h"], keys))
    assert [len(part) for part in parts] == [2, 2, 1]
    frame = pd.concat([part.to_pandas() for part in parts])
    assert list(frame.index) == list("abcde")
    assert [None if pd.isna(key) else key for key in frame["card_id"]] == ["42", "43", "44", None, "42"]
    assert [row["card_activity__tx_count_1h"] for part in parts for row in part.rows()] == [3, 0, None, None, 3]


def test_a_stream_is_tried_again_before_its_first_part(client, fake):
    fake.refusals = [Refusal(grpc.StatusCode.UNAVAILABLE)]
    assert len(list(client.stream_features(["card_activity:tx_count_1h"], {"card_id": ["42"]}))) == 1
    with pytest.raises(millrace.InvalidArgument):  # When it is called, not when the first part is taken.
        client.stream_features(["card_activity"], {"card_id": "42"})


def test_a_stream_is_not_tried_again_after_its_first_part(client, fake):
    fake.breaks = True
    parts = client.stream_features(["card_activity:tx_count_1h"], {"card_id": ["42", "43", "44"]})
    assert len(next(parts)) == 2
    with pytest.raises(millrace.Unavailable, match="stopping"):
        next(parts)
    assert len(fake.calls) == 1


def test_prepared_features_are_named_and_prepared_again(client, fake):
    prepared = client.prepare(["terminal_risk:name"])
    assert [(key.name, key.type) for key in prepared.keys] == [("terminal_id", "Utf8")]
    expected = [{"terminal_id": "7", "terminal_risk__name": "Zürich"}]
    assert prepared.get({"terminal_id": ["7"]}).rows() == expected
    fake.handles.clear()  # As when the server starts anew.
    answer = prepared.get({"terminal_id": ["7"]}, AS_OF)
    assert (answer.rows(), answer.as_of, answer.views["terminal_risk"].version) == (expected, AS_OF, "v1")
    asked = [type(call).__name__.replace("Request", "") for call in fake.calls]
    assert asked == ["Prepare", "GetFeatures", "GetFeatures", "Prepare", "GetFeatures"]


def test_views(client):
    (view,) = client.views()
    assert (view.name, view.stream, view.version) == ("card_activity", "transactions", "v1")
    assert view.longest_window == timedelta(days=30)
    assert (view.entity[0].name, view.features[0].type) == ("card_id", "Int64")


# ---------------------------------------------------------------------------------------------- scores and models


def test_scores(client, fake):
    events = [{"tx_id": "a", "event_time": AS_OF, "amount": np.float64(12)}, '{"tx_id": "b"}']
    scores = client.score(events, inputs=True, top_reasons=3)
    assert [json.loads(event) for event in fake.calls[0].event_json] == [
        {"tx_id": "a", "event_time": "2024-05-01T12:00:00+00:00", "amount": 12.0},
        {"tx_id": "b"},
    ]
    assert [(score.id, score.probability, score.model_version, score.decision) for score in scores] == [
        ("a", 0.25, 3, "review"),
        ("b", None, None, None),
    ]
    assert scores[0].event_time == NOW
    assert scores[0].inputs == {"amount": 12.0, "tx_count_1h": 3.0, "channel": "web"}
    assert scores.rows()[0]["reasons"][1] == {"input": "tx_count_1h", "value": None, "contribution": -0.25}
    assert scores.rows()[0]["reasons"][2] == {"input": "channel", "value": "web", "contribution": 0.125}
    frame = scores.to_pandas()
    assert list(frame.columns)[5:] == ["input__amount", "input__channel", "input__tx_count_1h", "reasons"]
    assert (frame["input__channel"].tolist(), frame["input__amount"].dtype) == (["web", None], "float64")
    assert frame["probability"].isna().tolist() == [False, True]
    assert "reasons" not in client.score(events).rows()[0]


def test_an_input_that_is_null_in_all_events_keeps_its_column(client, fake):
    fake.input_names = ("tx_count_1h", "terminal_risk_1d", "amount")
    frame = client.score(["{}", "{}"], inputs=True).to_pandas()
    assert list(frame.columns)[5:] == ["input__tx_count_1h", "input__terminal_risk_1d", "input__amount"]
    assert frame["input__terminal_risk_1d"].dtype == "float64"
    assert frame["input__terminal_risk_1d"].isna().all()
    assert frame["input__amount"].isna().tolist() == [False, True]


def test_a_frame_of_events_goes_in_columns(client, fake):
    client.score(pd.DataFrame({"tx_id": ["a", "b"], "amount": [1.5, None]}))
    assert not fake.calls[0].event_json
    assert {name: decode(column) for name, column in fake.calls[0].columns.items()} == {
        "tx_id": ["a", "b"],
        "amount": [1.5, None],
    }


def test_models(client, fake):
    (model,) = client.models()
    assert (model.version, model.parent, model.champion, model.state) == (2, 1, True, None)
    assert model.prequential_log_loss is None
    detail = client.model()
    assert (detail.model, detail.inputs, detail.life[0].reason) == (model, ("amount",), "the first")
    assert client.promote(2).champion == 2
    assert client.rollback().champion == 1
    assert client.rollback(4).champion == 4
    assert client.traffic(3, 10).canary_percent == 10


# --------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "code, kind",
    [
        ("INVALID_ARGUMENT", millrace.InvalidArgument),
        ("OUT_OF_RANGE", millrace.OutOfRange),
        ("NOT_FOUND", millrace.NotFound),
        ("FAILED_PRECONDITION", millrace.FailedPrecondition),
        ("UNAUTHENTICATED", millrace.Unauthenticated),
        ("PERMISSION_DENIED", millrace.PermissionDenied),
        ("RESOURCE_EXHAUSTED", millrace.Overloaded),
        ("INTERNAL", millrace.Internal),
        ("DATA_LOSS", millrace.MillraceError),
    ],
)
def test_a_status_is_an_exception_and_not_tried_again(client, fake, code, kind):
    fake.refusals = [Refusal(grpc.StatusCode[code], "there is no feature view 'x'")]
    with pytest.raises(millrace.MillraceError) as caught:
        client.get_features(["x"], {})
    assert type(caught.value) is kind
    assert str(caught.value) == "there is no feature view 'x'"
    assert caught.value.code is grpc.StatusCode[code]
    assert len(fake.calls) == 1


def test_violations_name_the_fields(client, fake):
    fake.refusals = [Refusal(grpc.StatusCode.INVALID_ARGUMENT, violations={"event_json[1]": "no JSON"})]
    with pytest.raises(millrace.InvalidArgument) as caught:
        client.score(["{", "}"])
    assert caught.value.violations == (millrace.Violation("event_json[1]", "no JSON"),)


def test_overload_is_tried_again_after_the_delay_that_the_server_names(client, fake):
    fake.refusals = [Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after=0.1)] * 2
    started = time.monotonic()
    assert len(client.models()) == 1
    assert 0.2 <= time.monotonic() - started < 2


def test_a_delay_beyond_the_deadline_is_not_waited_for(client, fake):
    fake.refusals = [Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after=60)]
    started = time.monotonic()
    with pytest.raises(millrace.Overloaded) as caught:
        client.models()
    assert caught.value.retry_after == 60
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("refused, calls", [(1, 2), (5, 6), (6, None)])
def test_unavailable_is_tried_again_a_few_times(client, fake, refused, calls):
    fake.refusals = [Refusal(grpc.StatusCode.UNAVAILABLE)] * refused
    if calls is None:
        with pytest.raises(millrace.Unavailable):
            client.models()
        calls = 6
    else:
        client.models()
    assert len(fake.calls) == calls


def test_what_may_have_been_done_is_not_done_again(client, fake):
    fake.refusals = [Refusal(grpc.StatusCode.UNAVAILABLE)]
    with pytest.raises(millrace.Unavailable):
        client.rollback()
    fake.refusals = [Refusal(grpc.StatusCode.UNAVAILABLE)]
    assert client.rollback(4).champion == 4


def test_nobody_there():
    with Client("127.0.0.1:1", timeout=0.3) as client, pytest.raises(millrace.Unavailable, match=r"127\.0\.0\.1:1"):
        client.views()


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda c: c.get_features("card_activity", KEYS), "features: give a list of names"),
        (lambda c: c.get_features([], KEYS), "features: give a list of names"),
        (lambda c: c.get_features(BOTH, {"card_id": ["1", "2"], "terminal_id": ["7"]}), "keys: the columns differ"),
        (lambda c: c.get_features(BOTH, KEYS, "2024-05-01"), "as_of: a str is no datetime; give datetime("),
        (lambda c: c.get_features(BOTH, KEYS, timeout=0), "timeout: 0 is not above 0 seconds"),
        (lambda c: c.score({"tx_id": "a"}), "events: a dict is one event or none; give a list of events"),
        (lambda c: c.score([{"amount": float("nan")}]), "events[0]: Out of range float"),
        (lambda c: c.score([1]), "events[0]: a int is no dict and no JSON text"),
        (lambda c: c.score([{"x": object()}]), "events[0]: a object has no place in JSON"),
        (lambda c: c.score([], top_reasons=-1), "top_reasons: -1 is below 0"),
        (lambda c: c.traffic(1, 100), "percent: 100 is not in 0 to 99"),
        (lambda c: c.promote(-1), "version: -1 is no version's number"),
        (lambda c: Client("http://localhost:7077"), "target: 'http://localhost:7077' is a URL"),
        (lambda c: Client("localhost:7077", token="two words"), "token: it is empty, or has spaces"),
        (lambda c: Client("localhost:7077", tls="missing.pem"), "tls: root_certificates: "),
        (lambda c: Client("localhost:7077", tls=Tls(key="k")), "tls: a client's certificate and its key go together"),
    ],
)
def test_wrong_arguments_are_not_sent(client, fake, ask, message):
    with pytest.raises(millrace.InvalidArgument) as caught:
        ask(client)
    assert str(caught.value).startswith(message)
    assert caught.value.code is None
    assert fake.calls == []


# ----------------------------------------------------------------------------------------------------- connection


def test_the_token_goes_along(client, fake):
    client.views()
    assert fake.metadata[0]["authorization"] == "Bearer secret"


def test_the_trace_goes_along(client, fake):
    trace = pytest.importorskip("opentelemetry.trace")
    state = trace.TraceState([("vendor", "a")])
    context = trace.SpanContext(0x1F, 0x2E, is_remote=False, trace_flags=trace.TraceFlags(1), trace_state=state)
    with trace.use_span(trace.NonRecordingSpan(context)):
        client.views()
        list(client.stream_features(["card_activity"], {"card_id": ["42"]}))
    client.views()
    traced = {"traceparent": f"00-{0x1F:032x}-{0x2E:016x}-01", "tracestate": "vendor=a"}
    assert all(traced.items() <= metadata.items() for metadata in fake.metadata[:2])
    assert "traceparent" not in fake.metadata[2]


def test_tls_on_both_sides(fake, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=millrace"
    paths = ["-addext", "subjectAltName=DNS:millrace", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *made.split(), *paths], check=True, capture_output=True)
    pair = (key.read_bytes(), certificate.read_bytes())
    credentials = grpc.ssl_server_credentials([pair], root_certificates=pair[1], require_client_auth=True)
    with serving(fake, credentials) as port:
        known = Tls(certificate, certificate=certificate, key=key, server_name="millrace")
        with Client(f"127.0.0.1:{port}", tls=known, timeout=5) as client:
            assert len(client.views()) == 1
        unknown = Tls(certificate, server_name="millrace")
        with Client(f"127.0.0.1:{port}", tls=unknown, timeout=0.3) as client, pytest.raises(millrace.Unavailable):
            client.views()


@pytest.mark.skipif("MILLRACE_SERVER" not in os.environ, reason="MILLRACE_SERVER names no server of examples/fraud")
def test_a_real_server_of_the_fraud_example():
    with Client(os.environ["MILLRACE_SERVER"], token=os.environ.get("MILLRACE_TOKEN"), timeout=10) as client:
        views = {view.name: view for view in client.views()}
        assert {"card_activity", "terminal_activity", "terminal_risk", "card_risk"} <= set(views)
        keys = {"card_id": ["nobody", "nobody"], "terminal_id": ["nowhere", "nowhere"]}
        asked = ["card_activity", "terminal_risk:frauds_28d"]
        answer = client.get_features(asked, keys)
        names = [f"card_activity__{field.name}" for field in views["card_activity"].features]
        assert answer.to_arrow().column_names == ["card_id", "terminal_id", *names, "terminal_risk__frauds_28d"]
        assert answer.rows()[0]["terminal_risk__frauds_28d"] == 0
        assert answer.rows()[0]["card_activity__amount_avg_7d"] is None
        assert answer.views["card_activity"].statuses == [EntityStatus.UNKNOWN] * 2
        assert answer.views["card_activity"].version == views["card_activity"].version
        prepared = client.prepare(asked)
        assert prepared.get(keys, answer.as_of).rows() == answer.rows()
        streamed = client.stream_features(asked, keys, answer.as_of, timeout=10)
        assert [row for part in streamed for row in part.rows()] == answer.rows()
        with pytest.raises(millrace.NotFound):
            client.get_features(["card_activities"], keys)
        with pytest.raises(millrace.InvalidArgument):
            client.get_features(asked, {"card_id": ["1"]})
        event = {"tx_id": "t", "card_id": "nobody", "terminal_id": "nowhere", "amount": 12.5}
        event["event_time"] = answer.as_of
        as_json, as_columns = client.score([event], inputs=True), client.score(pd.DataFrame([event]), inputs=True)
        assert as_json.rows() == as_columns.rows()
        assert as_json[0].event_time == answer.as_of
        assert as_json[0].inputs["amount"] == 12.5
