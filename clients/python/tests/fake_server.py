"""A server in the test's own process: what it knows is below, and what it is to refuse is put into `refusals`."""

from __future__ import annotations

from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.timestamp_pb2 import Timestamp

from millrace._proto import details_pb2, features_pb2, models_pb2, scoring_pb2
from millrace._proto.features_pb2_grpc import FeatureServiceServicer, add_FeatureServiceServicer_to_server
from millrace._proto.models_pb2_grpc import ModelServiceServicer, add_ModelServiceServicer_to_server
from millrace._proto.scoring_pb2_grpc import ScoringServiceServicer, add_ScoringServiceServicer_to_server
from millrace._proto.values_pb2 import Column, Field

NOW = Timestamp(seconds=1_700_000_000, nanos=123_456_000)
NEWEST = Timestamp(seconds=1_699_999_990)
PART = 2

VIEWS = {
    "card_activity": ("card_id", {"tx_count_1h": "Int64", "amount_avg_7d": "Float64", "last_seen": "Timestamp(µs)"}),
    "terminal_risk": ("terminal_id", {"frauds_28d": "Int64", "name": "Utf8", "night": "Boolean", "cards": "UInt64"}),
}
#: What the features of an entity are; all others are unknown.
KNOWN = {
    "tx_count_1h": {"42": 3, "43": 0},
    "amount_avg_7d": {"42": 12.5},
    "last_seen": {"42": Timestamp(seconds=1_600_000_000, nanos=5_000)},
    "frauds_28d": {"7": 1},
    "name": {"7": "Zürich"},
    "night": {"7": True},
    "cards": {"7": 2**64 - 1},
}
LISTS = {"Int64": "int64s", "Float64": "doubles", "Timestamp(µs)": "timestamps", "Utf8": "strings"}
LISTS |= {"Boolean": "bools", "UInt64": "uint64s"}


@dataclass
class Refusal:
    code: grpc.StatusCode
    message: str = "refused"
    retry_after: float | None = None
    violations: dict[str, str] = field(default_factory=dict)

    def details(self):
        if self.retry_after is not None:
            info = details_pb2.RetryInfo()
            info.retry_delay.FromNanoseconds(int(self.retry_after * 1e9))
            yield Any(type_url="type.googleapis.com/google.rpc.RetryInfo", value=info.SerializeToString())
        if self.violations:
            listed = [details_pb2.FieldViolation(field=f, description=d) for f, d in self.violations.items()]
            bad = details_pb2.BadRequest(field_violations=listed)
            yield Any(type_url="type.googleapis.com/google.rpc.BadRequest", value=bad.SerializeToString())


@dataclass
class Fake(FeatureServiceServicer, ScoringServiceServicer, ModelServiceServicer):
    #: One for each call to come; None lets it pass.
    refusals: list[Refusal | None] = field(default_factory=list)
    #: Whether a stream ends with UNAVAILABLE after its first part.
    breaks: bool = False
    #: What was asked, and the metadata that came along.
    calls: list = field(default_factory=list)
    metadata: list = field(default_factory=list)
    #: The handles that this server knows.
    handles: dict[int, list[str]] = field(default_factory=dict)
    #: What it says of the names of inputs.
    input_names: tuple[str, ...] = ()

    def admit(self, request, context):
        self.calls.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        refusal = self.refusals.pop(0) if self.refusals else None
        if refusal:
            details = details_pb2.Status(code=refusal.code.value[0], message=refusal.message, details=refusal.details())
            if details.details:
                context.set_trailing_metadata([("grpc-status-details-bin", details.SerializeToString())])
            context.abort(refusal.code, refusal.message)

    def asked(self, request, context):
        if request.HasField("handle"):
            if request.handle not in self.handles:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the handle is not known; prepare again")
            return self.handles[request.handle]
        return request.features

    def GetFeatures(self, request, context):
        self.admit(request, context)
        names = self.asked(request, context)
        views = {}
        for name in names:
            view, _, feature = name.partition(":")
            views.setdefault(view, []).extend([feature] if feature else VIEWS[view][1])
        prepared = request.HasField("handle")
        return features_pb2.GetFeaturesResponse(
            views=[answer(view, features, request.keys, prepared) for view, features in views.items()],
            as_of=request.as_of if request.HasField("as_of") else NOW,
        )

    def StreamFeatures(self, request, context):
        self.admit(request, context)
        rows = len(request.keys["card_id"].strings)
        for first in range(0, rows, PART):
            part = request.keys["card_id"].strings[first : first + PART]
            views = [answer("card_activity", ["tx_count_1h"], {"card_id": Column(strings=part)}, False)]
            yield features_pb2.GetFeaturesResponse(views=views, as_of=NOW, first_row=first)
            if self.breaks:
                context.abort(grpc.StatusCode.UNAVAILABLE, "stopping")

    def Prepare(self, request, context):
        self.admit(request, context)
        handle = 2**63 + len(self.calls)
        self.handles[handle] = list(request.features)
        view, _, feature = request.features[0].partition(":")
        key, features = VIEWS[view]
        fields = [Field(name=feature, type=features[feature])]
        described = features_pb2.View(name=view, version="v1", features=fields)
        return features_pb2.PrepareResponse(handle=handle, views=[described], keys=[Field(name=key, type="Utf8")])

    def ListViews(self, request, context):
        self.admit(request, context)
        view = features_pb2.View(name="card_activity", stream="transactions", version="v1")
        view.entity.add(name="card_id", type="Utf8")
        view.features.add(name="tx_count_1h", type="Int64")
        view.longest_window.FromSeconds(30 * 86_400)
        return features_pb2.ListViewsResponse(views=[view])

    def Score(self, request, context):
        self.admit(request, context)
        response = scoring_pb2.ScoreResponse()
        first = response.scores.add(id="a", event_time=NOW, probability=0.25, model_version=3, decision="review")
        if request.include_inputs:
            first.inputs.update({"amount": 12.0, "tx_count_1h": 3.0})
            first.text_inputs.update({"channel": "web"})
            response.input_names.extend(self.input_names)
        if request.top_reasons:
            first.reasons.add(input="amount", value=12.0, contribution=0.5)
            first.reasons.add(input="tx_count_1h", contribution=-0.25)
            first.reasons.add(input="channel", text="web", contribution=0.125)
        response.scores.add(id="b", event_time=NOW)
        return response

    def ListModels(self, request, context):
        self.admit(request, context)
        return models_pb2.ListModelsResponse(models=[MODEL])

    def GetModel(self, request, context):
        self.admit(request, context)
        life = [models_pb2.Step(at=NOW, state="champion", reason="the first")]
        return models_pb2.GetModelResponse(model=MODEL, life=life, inputs=["amount"])

    def Promote(self, request, context):
        self.admit(request, context)
        return models_pb2.TrafficResponse(champion=request.version, message="promoted")

    def Rollback(self, request, context):
        self.admit(request, context)
        return models_pb2.TrafficResponse(champion=request.to if request.HasField("to") else 1, message="back")

    def SetTraffic(self, request, context):
        self.admit(request, context)
        return models_pb2.TrafficResponse(champion=1, canary=request.version, canary_percent=request.percent)


MODEL = models_pb2.Model(version=2, parent=1, created=NOW, rows=400, trained_until=NEWEST, champion=True, device="cpu")


def answer(view, features, keys, prepared):
    key, types = VIEWS[view]
    entities = keys[key].strings
    known = [any(entity in KNOWN[name] for name in types) for entity in entities]
    message = features_pb2.ViewFeatures(
        view="" if prepared else view,
        features=[column(feature, types[feature], entities, prepared) for feature in features],
        statuses=[1 if is_known else 3 for is_known in known],
        status=features_pb2.VIEW_STATUS_BEHIND,
        version="" if prepared else "v1",
    )
    if view == "card_activity":
        message.complete_until.CopyFrom(NEWEST)
    return message


def column(name, type_name, entities, prepared):
    fillers = {"Utf8": "", "Boolean": False, "Timestamp(µs)": Timestamp()}
    values = [KNOWN[name].get(entity, fillers.get(type_name, 0)) for entity in entities]
    nulls = [row for row, entity in enumerate(entities) if entity not in KNOWN[name]]
    return Column(name="" if prepared else name, nulls=nulls, **{LISTS[type_name]: values})


@contextmanager
def serving(fake: Fake, credentials=None):
    """Serves it, and gives the port."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    add_FeatureServiceServicer_to_server(fake, server)
    add_ScoringServiceServicer_to_server(fake, server)
    add_ModelServiceServicer_to_server(fake, server)
    if credentials:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None)
