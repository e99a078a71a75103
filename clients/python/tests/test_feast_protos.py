"""Feast's own generated stubs against a running Millrace: both of Feast's services, answered as Feast's clients expect.

    pip install 'feast[grpcio]==0.67.*' pytest
    MILLRACE_SERVER=127.0.0.1:7077 pytest tests/test_feast_protos.py

The server runs the project in examples/fraud. The last tests push payments of new cards to it; they are skipped where
it does not take any.
"""

import os
import time
import uuid

import pytest

pytest.importorskip("feast", reason="needs Feast's protos: pip install 'feast[grpcio]==0.67.*'")
grpc = pytest.importorskip("grpc", reason="needs grpcio: pip install 'feast[grpcio]==0.67.*'")

from feast.online_response import OnlineResponse  # noqa: E402
from feast.protos.feast.serving.GrpcServer_pb2 import PushRequest, WriteToOnlineStoreRequest  # noqa: E402
from feast.protos.feast.serving.GrpcServer_pb2_grpc import GrpcFeatureServerStub  # noqa: E402
from feast.protos.feast.serving.ServingService_pb2 import (  # noqa: E402
    FeatureList,
    FieldStatus,
    GetFeastServingInfoRequest,
    GetOnlineFeaturesRequest,
)
from feast.protos.feast.serving.ServingService_pb2_grpc import ServingServiceStub  # noqa: E402
from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value  # noqa: E402

SERVER = os.environ.get("MILLRACE_SERVER")
pytestmark = pytest.mark.skipif(not SERVER, reason="MILLRACE_SERVER (host:port of a running Millrace) is not set")

SECONDS = 10
ARRIVES_SECONDS = 30
PRESENT, NULL = FieldStatus.PRESENT, FieldStatus.NULL_VALUE
UNKNOWN, TOO_OLD = FieldStatus.NOT_FOUND, FieldStatus.OUTSIDE_MAX_AGE
BAD, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
SILENT = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.PERMISSION_DENIED)
CARD_ACTIVITY = [
    *("tx_count_1h", "tx_count_1d", "amount_sum_1d", "amount_max_1d", "terminals_1d"),
    *("tx_count_7d", "amount_avg_7d", "tx_count_30d", "amount_avg_30d", "amount_std_30d"),
]


@pytest.fixture(scope="module")
def channel():
    with grpc.insecure_channel(SERVER) as channel:
        grpc.channel_ready_future(channel).result(timeout=SECONDS)
        yield channel


@pytest.fixture(params=[ServingServiceStub, GrpcFeatureServerStub], ids=["ServingService", "GrpcFeatureServer"])
def ask(request, channel):
    """Calls GetOnlineFeatures of one of the two services."""
    stub = request.param(channel)
    return lambda **fields: stub.GetOnlineFeatures(GetOnlineFeaturesRequest(**fields), timeout=SECONDS)


@pytest.fixture
def pusher(channel):
    return GrpcFeatureServerStub(channel)


def features(*references):
    return FeatureList(val=references)


def texts(*values):
    return RepeatedValue(val=[Value(string_val=value) for value in values])


def cards(*values):
    return {"card_id": texts(*values)}


def read(value):
    """A value and its kind; None and None of a null, of which Feast's clients want nothing to be set."""
    kind = value.WhichOneof("val")
    return (getattr(value, kind), kind) if kind else (None, None)


def columns(answer):
    """The columns by name, if their shape is what Feast's clients rely on."""
    names = list(answer.metadata.feature_names.val)
    assert len(names) == len(set(names)) == len(answer.results)
    sizes = {len(part) for c in answer.results for part in (c.values, c.statuses, c.event_timestamps)}
    assert len(sizes) == 1, "each column has a value, a status and a time for each row"
    for column in answer.results:
        for value, status in zip(column.values, column.statuses):
            assert status in (PRESENT, NULL, UNKNOWN, TOO_OLD)
            assert (status == NULL) <= (read(value) == (None, None)) <= (status != PRESENT)
    return dict(zip(names, answer.results))


def test_tells_its_version(channel):
    answer = ServingServiceStub(channel).GetFeastServingInfo(GetFeastServingInfoRequest(), timeout=SECONDS)
    assert answer.version


# ---- what stands where


@pytest.mark.parametrize("full", [False, True])
def test_entity_column_comes_first_and_features_as_asked(ask, full):
    asked = ["tx_count_30d", "amount_avg_7d", "tx_count_1h"]
    rows = ["nobody", "no one", "nobody"]
    answer = ask(
        features=features(*(f"card_activity:{name}" for name in asked)), entities=cards(*rows), full_feature_names=full
    )
    prefix = "card_activity__" if full else ""
    assert list(answer.metadata.feature_names.val) == ["card_id", *(prefix + name for name in asked)]
    assert not answer.metadata.feature_view_metadata
    first = columns(answer)["card_id"]
    assert [read(value) for value in first.values] == [(row, "string_val") for row in rows]
    assert list(first.statuses) == [PRESENT] * 3
    assert [time.ToNanoseconds() for time in first.event_timestamps] == [0, 0, 0]


def test_a_card_that_is_not_known_has_counts_of_zero_and_nulls(ask):
    names = ["tx_count_1h", "terminals_1d", "amount_sum_1d", "amount_avg_7d"]
    found = columns(ask(features=features(*(f"card_activity:{name}" for name in names)), entities=cards("nobody")))
    assert {name: read(found[name].values[0]) for name in names} == {
        "tx_count_1h": (0, "int64_val"),
        "terminals_1d": (0, "int64_val"),
        "amount_sum_1d": (None, None),
        "amount_avg_7d": (None, None),
    }
    assert {name: list(found[name].statuses) for name in names} == {name: [UNKNOWN] for name in names}


def test_views_of_several_entities_are_asked_at_once(ask):
    asked = ["terminal_activity:tx_count_7d", "card_risk:frauds_7d", "card_activity:tx_count_1h"]
    answer = ask(features=features(*asked), entities={**cards("nobody"), "terminal_id": texts("nowhere")})
    names = list(answer.metadata.feature_names.val)
    assert set(names[:2]) == {"card_id", "terminal_id"}
    assert names[2:] == ["tx_count_7d", "frauds_7d", "tx_count_1h"]
    assert read(columns(answer)["card_id"].values[0]) == ("nobody", "string_val")
    assert read(columns(answer)["terminal_id"].values[0]) == ("nowhere", "string_val")


def test_full_names_tell_features_of_one_name_apart(ask):
    asked = features("card_risk:frauds_7d", "terminal_risk:frauds_7d")
    answer = ask(features=asked, entities={**cards("nobody"), "terminal_id": texts("nowhere")}, full_feature_names=True)
    assert list(answer.metadata.feature_names.val)[2:] == ["card_risk__frauds_7d", "terminal_risk__frauds_7d"]


def test_a_view_is_a_feature_service_of_all_its_features(ask):
    answer = ask(feature_service="card_activity", entities=cards("nobody"))
    assert list(answer.metadata.feature_names.val) == ["card_id", *CARD_ACTIVITY]
    columns(answer)


def test_a_feature_asked_for_twice_is_answered_once(ask):
    names = ["card_activity:tx_count_1h", "card_activity:tx_count_1d", "card_activity:tx_count_1h"]
    answer = ask(features=features(*names), entities=cards("nobody"))
    assert list(answer.metadata.feature_names.val) == ["card_id", "tx_count_1h", "tx_count_1d"]


def test_request_context_changes_nothing(ask):
    fields = dict(features=features("card_activity:tx_count_1h"), entities=cards("nobody"))
    with_context = ask(**fields, request_context={"amount": RepeatedValue(val=[Value(double_val=12.5)])})
    assert list(with_context.metadata.feature_names.val) == ["card_id", "tx_count_1h"]


def test_views_are_named_where_it_is_wanted(ask):
    fields = dict(features=features("card_activity:tx_count_1h", "card_risk:frauds_7d"), entities=cards("nobody"))
    answer = ask(**fields, include_feature_view_version_metadata=True)
    assert [view.name for view in answer.metadata.feature_view_metadata] == ["card_activity", "card_risk"]


def test_no_rows_are_no_answers(ask):
    answer = ask(features=features("card_activity:tx_count_1h"), entities=cards())
    assert list(answer.metadata.feature_names.val) == ["card_id", "tx_count_1h"]
    assert [len(column.values) for column in answer.results] == [0, 0]


def test_feasts_own_response_reads_it(ask):
    fields = dict(features=features("card_activity:tx_count_1h", "card_activity:amount_avg_7d"))
    answer = ask(**fields, entities=cards("nobody", "no one"))
    wanted = {"card_id": ["nobody", "no one"], "tx_count_1h": [0, 0], "amount_avg_7d": [None, None]}
    assert OnlineResponse(answer).to_dict() == wanted


# ---- refusals


COUNT = features("card_activity:tx_count_1h")
REFUSED = {
    "unknown view": (dict(features=features("card_activty:tx_count_1h")), (MISSING, BAD), "card_activity"),
    "unknown feature": (dict(features=features("card_activity:tx_count_1hh")), (MISSING, BAD), "tx_count_1h"),
    "unknown service": (dict(feature_service="card_activty"), (MISSING, BAD), "card_activity"),
    "no view in a reference": (dict(features=features("tx_count_1h")), (MISSING, BAD), "tx_count_1h"),
    "nothing asked for": (dict(features=features()), (BAD,), "feature"),
    "neither features nor a service": ({}, (BAD,), "feature"),
    "two features of one name": (
        dict(
            features=features("card_risk:frauds_7d", "terminal_risk:frauds_7d"),
            entities={**cards("nobody"), "terminal_id": texts("nowhere")},
        ),
        (BAD,),
        "full_feature_names",
    ),
    "columns of unequal lengths": (
        dict(
            features=features("card_activity:tx_count_1h", "terminal_activity:tx_count_7d"),
            entities={**cards("nobody", "no one"), "terminal_id": texts("nowhere")},
        ),
        (BAD,),
        "terminal_id",
    ),
    "an entity column that is missing": (
        dict(features=COUNT, entities={"terminal_id": texts("nowhere")}),
        (BAD,),
        "card_id",
    ),
    "a column that names no entity": (
        dict(features=COUNT, entities={**cards("nobody"), "cart_id": texts("nobody")}),
        (BAD,),
        "cart_id",
    ),
    "no entity columns": (dict(features=COUNT, entities={}), (BAD,), "card_id"),
    "a null for an entity": (
        dict(features=COUNT, entities={"card_id": RepeatedValue(val=[Value()])}),
        (BAD,),
        "card_id",
    ),
    "a list for an entity": (
        dict(features=COUNT, entities={"card_id": RepeatedValue(val=[Value(list_val=texts("nobody"))])}),
        (BAD,),
        "card_id",
    ),
}


@pytest.mark.parametrize("fields, codes, word", REFUSED.values(), ids=REFUSED.keys())
def test_refuses(ask, fields, codes, word):
    with pytest.raises(grpc.RpcError) as refused:
        ask(**{"entities": cards("nobody"), **fields})
    assert refused.value.code() in codes
    assert word in refused.value.details()


# ---- events


def payment(card, terminal, amount, event_time):
    columns = dict(tx_id=str(uuid.uuid4()), card_id=card, terminal_id=terminal)
    typed = {name: Value(string_val=text) for name, text in columns.items()}
    return {**typed, "amount": Value(double_val=amount), "event_time": event_time}


def as_text(typed):
    return {name: str(read(value)[0]) for name, value in typed.items()}


def taken(call):
    """Whether an event was taken; skips where the server takes none at all."""
    try:
        return call().status
    except grpc.RpcError as error:
        if error.code() in SILENT:
            pytest.skip(f"the server takes no events: {error.code().name}: {error.details()}")
        raise


def await_values(ask, names, entities, wanted):
    """Asks until the first row is as wanted, and gives the columns."""
    end = time.monotonic() + ARRIVES_SECONDS
    while True:
        found = columns(ask(features=features(*names), entities=entities, full_feature_names=True))
        got = {name: read(found[name].values[0]) for name in wanted}
        if got == wanted or time.monotonic() > end:
            assert got == wanted
            return found
        time.sleep(0.2)


def test_pushed_payments_are_counted(ask, pusher):
    card, now = f"card-{uuid.uuid4()}", int(time.time())
    typed = payment(card, "t-1", 10.0, Value(unix_timestamp_val=now - 60))
    zulu = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - 30))
    text = as_text(payment(card, "t-2", 20.0, Value(string_val=zulu)))
    to = dict(stream_feature_view="transactions", to="online", allow_registry_cache=True)
    names = ["tx_count_1h", "amount_sum_1d", "amount_max_1d", "terminals_1d", "amount_avg_7d", "amount_std_30d"]
    asked = [f"card_activity:{name}" for name in names]
    count, deviation = "card_activity__tx_count_1h", "card_activity__amount_std_30d"

    assert taken(lambda: pusher.Push(PushRequest(typed_features=typed, **to), timeout=SECONDS))
    found = await_values(ask, asked, cards(card), {count: (1, "int64_val"), deviation: (None, None)})
    assert (found[count].statuses[0], found[deviation].statuses[0]) == (PRESENT, NULL)

    assert taken(lambda: pusher.Push(PushRequest(features=text, **to), timeout=SECONDS))
    wanted = [(2, "int64_val"), (30.0, "double_val"), (20.0, "double_val"), (2, "int64_val"), (15.0, "double_val")]
    wanted = {f"card_activity__{name}": value for name, value in zip(names, wanted)}
    found = await_values(ask, asked, cards(card, "nobody"), wanted)
    assert read(found[deviation].values[0])[0] == pytest.approx(50**0.5)
    assert list(found[count].statuses) == [PRESENT, UNKNOWN]
    assert all(found[name].event_timestamps[0].seconds >= now - 30 for name in wanted)


def test_a_terminal_whose_payments_are_too_old_is_told_from_one_without(ask, pusher):
    card, terminal, now = f"card-{uuid.uuid4()}", f"terminal-{uuid.uuid4()}", int(time.time())
    typed = payment(card, terminal, 10.0, Value(unix_timestamp_val=now - 8 * 86_400))
    asking = WriteToOnlineStoreRequest(feature_view_name="terminal_activity", typed_features=typed)
    assert taken(lambda: pusher.WriteToOnlineStore(asking, timeout=SECONDS))
    entities = {**cards(card), "terminal_id": texts(terminal)}
    wanted = {"card_activity__tx_count_30d": (1, "int64_val"), "terminal_activity__tx_count_7d": (0, "int64_val")}
    found = await_values(ask, ["card_activity:tx_count_30d", "terminal_activity:tx_count_7d"], entities, wanted)
    assert [found[name].statuses[0] for name in wanted] == [PRESENT, TOO_OLD]


EVENT = {"card_id": Value(string_val="nobody")}
NO_AMOUNT = payment("nobody", "nowhere", 1.0, Value(unix_timestamp_val=1_700_000_000))
del NO_AMOUNT["amount"]
REFUSED_EVENTS = {
    "unknown stream": (dict(stream_feature_view="transaction", to="online", typed_features=EVENT), "transactions"),
    "unknown target": (dict(stream_feature_view="transactions", to="nowhere", typed_features=EVENT), "online"),
    "text and types at once": (
        dict(stream_feature_view="transactions", to="online", typed_features=EVENT, features={"card_id": "nobody"}),
        "typed_features",
    ),
    "a column that is missing": (
        dict(stream_feature_view="transactions", to="online", typed_features=NO_AMOUNT),
        "amount",
    ),
}


@pytest.mark.parametrize("fields, word", REFUSED_EVENTS.values(), ids=REFUSED_EVENTS.keys())
def test_refuses_events(pusher, fields, word):
    with pytest.raises(grpc.RpcError) as refused:
        taken(lambda: pusher.Push(PushRequest(**fields), timeout=SECONDS))
    assert refused.value.code() in (MISSING, BAD)
    assert word in refused.value.details()


def test_refuses_events_for_an_unknown_view(pusher):
    with pytest.raises(grpc.RpcError) as refused:
        ask = WriteToOnlineStoreRequest(feature_view_name="card_activty", typed_features=EVENT)
        taken(lambda: pusher.WriteToOnlineStore(ask, timeout=SECONDS))
    assert refused.value.code() in (MISSING, BAD)
    assert "card_activity" in refused.value.details()
