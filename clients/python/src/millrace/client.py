"""The client: one connection, for as many threads as one likes. `_calls.py` says what is tried again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Optional, Union

import grpc

from ._calls import Calls
from ._proto import features_pb2, models_pb2
from ._proto.features_pb2_grpc import FeatureServiceStub
from ._proto.models_pb2_grpc import ModelServiceStub
from ._proto.scoring_pb2_grpc import ScoringServiceStub
from .columns import ColumnsLike, timestamp, warn_of_naive
from .errors import FailedPrecondition, InvalidArgument
from .features import Features, Field, Keys, View, encode_keys, read_features, read_fields, read_view
from .models import Model, ModelDetail, Traffic, read_detail, read_model, read_traffic
from .scores import Events, Scores, encode_events, read_scores

StrPath = Union[str, "os.PathLike[str]"]

_OPTIONS = [
    # An answer of 10,000 entities is larger than the 4 MiB that grpc takes by default.
    ("grpc.max_receive_message_length", -1),
    # Retries come sooner than grpc would connect again by default, which is after a second.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Finds out that a peer is gone while a call without a deadline waits for it.
    ("grpc.keepalive_time_ms", 30_000),
]


@dataclass(frozen=True)
class Tls:
    """An encrypted connection. All are paths of PEM files."""

    #: Whom to trust. None: whom the machine trusts.
    root_certificates: Optional[StrPath] = None
    #: What the client shows, with its key, where the server asks for it.
    certificate: Optional[StrPath] = None
    key: Optional[StrPath] = None
    #: The name that the server's certificate has, where it is not the target's.
    server_name: Optional[str] = None


class Client:
    """Asks a Millrace server.

    `target` is `host:port`. `token` is sent with every call: over a connection without `tls`, everyone on the way can
    read it. `tls` is the path of the certificate to trust, `True` for those that the machine trusts, or a `Tls`.
    `timeout` is in seconds and covers a call with all that is tried again for it; each method takes one of its own.

    Methods raise `MillraceError`; what is wrong with arguments is raised as `InvalidArgument` before anything is sent.
    """

    def __init__(
        self,
        target: str,
        *,
        token: Optional[str] = None,
        tls: Union[bool, StrPath, Tls, None] = None,
        timeout: float = 1.0,
    ) -> None:
        if "://" in target and target.split("://")[0] in ("http", "https", "grpc"):
            raise InvalidArgument(f"target: '{target}' is a URL; give host:port, and tls=True for https")
        self._calls = Calls(token, timeout)
        self._channel = _channel(target, tls)
        self._features: Any = FeatureServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._scoring: Any = ScoringServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._models: Any = ModelServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection, and all calls under way on it."""
        self._channel.close()

    # ------------------------------------------------------------------------------------------------- features

    def get_features(
        self,
        features: Sequence[str],
        keys: ColumnsLike,
        as_of: Optional[datetime] = None,
        *,
        timeout: Optional[float] = None,
    ) -> Features:
        """Features of at most 10,000 entities as of a time; None is now.

        `features` are `view`, `view:feature`, or the name of a model's inputs. `keys` has a column for each entity
        column of the views, with one value an entity. A time without a time zone is taken as UTC.
        """
        names = _names(features)
        encoded = encode_keys(keys)
        request = _request(encoded, as_of, features=names)
        answer = self._calls.unary(self._features.GetFeatures, request, self._calls.deadline(timeout))
        return read_features(answer, encoded)

    def stream_features(
        self,
        features: Sequence[str],
        keys: ColumnsLike,
        as_of: Optional[datetime] = None,
        *,
        timeout: Optional[float] = None,
    ) -> Iterator[Features]:
        """As `get_features`, of any number of entities, in parts of some hundred, all as of the same time.

        `timeout` is for all parts together; None is no limit here.
        """
        names = _names(features)
        encoded = encode_keys(keys)
        request = _request(encoded, as_of, features=names)
        deadline = None if timeout is None else self._calls.deadline(timeout)
        # From here on a generator: what is wrong with arguments was raised above, when this was called.
        return (
            read_features(part, encoded)
            for part in self._calls.stream(self._features.StreamFeatures, request, deadline)
        )

    def prepare(self, features: Sequence[str], *, timeout: Optional[float] = None) -> Prepared:
        """Resolves names once, for look-ups that are made again and again."""
        names = _names(features)
        return Prepared(self, names, self._prepare(names, self._calls.deadline(timeout)))

    def _prepare(self, names: list[str], deadline: float) -> _Handle:
        request = features_pb2.PrepareRequest(features=names)
        answer = self._calls.unary(self._features.Prepare, request, deadline)
        return _Handle(answer.handle, tuple(map(read_view, answer.views)), read_fields(answer.keys))

    def _get_prepared(self, handle: _Handle, keys: Keys, as_of: Optional[datetime], deadline: float) -> Features:
        request = _request(keys, as_of, handle=handle.number)
        return read_features(self._calls.unary(self._features.GetFeatures, request, deadline), keys, handle.views)

    def views(self, *, timeout: Optional[float] = None) -> list[View]:
        """The feature views of the project."""
        request = features_pb2.ListViewsRequest()
        answer = self._calls.unary(self._features.ListViews, request, self._calls.deadline(timeout))
        return list(map(read_view, answer.views))

    # --------------------------------------------------------------------------------------------------- scores

    def score(
        self, events: Events, *, inputs: bool = False, top_reasons: int = 0, timeout: Optional[float] = None
    ) -> Scores:
        """Scores of at most 10,000 events, each as of its own time.

        Events are dicts or JSON texts, as they would stand in the stream's topic, or a DataFrame with the columns that
        sources.sql names. `inputs` asks for what the model saw, `top_reasons` for what moved each score most.
        """
        request = encode_events(events, inputs=inputs, top_reasons=top_reasons)
        answer = self._calls.unary(self._scoring.Score, request, self._calls.deadline(timeout))
        return read_scores(answer, inputs=inputs, reasons=top_reasons > 0)

    # --------------------------------------------------------------------------------------------------- models

    def models(self, *, timeout: Optional[float] = None) -> list[Model]:
        """The versions of the model that are kept, oldest first."""
        answer = self._call_models("ListModels", models_pb2.ListModelsRequest(), timeout)
        return list(map(read_model, answer.models))

    def model(self, version: Optional[int] = None, *, timeout: Optional[float] = None) -> ModelDetail:
        """A version, with what became of it; None is the champion."""
        return read_detail(self._call_models("GetModel", _versioned(models_pb2.GetModelRequest, version or 0), timeout))

    def promote(self, version: int, *, timeout: Optional[float] = None) -> Traffic:
        """Gives a version all of the traffic."""
        return read_traffic(self._call_models("Promote", _versioned(models_pb2.PromoteRequest, version), timeout))

    def rollback(self, to: Optional[int] = None, *, timeout: Optional[float] = None) -> Traffic:
        """Gives the traffic back to a version that had it before; None is the last that did no harm."""
        request = models_pb2.RollbackRequest()
        if to is not None:
            request = _versioned(models_pb2.RollbackRequest, to, "to")
        # Done twice, it would go back by two versions.
        return read_traffic(self._call_models("Rollback", request, timeout, repeatable=to is not None))

    def traffic(self, version: int, percent: int, *, timeout: Optional[float] = None) -> Traffic:
        """Gives a version the traffic of `percent` of a hundred entities, 0 to 99; 0 takes it back."""
        if percent not in range(100):
            raise InvalidArgument(f"percent: {percent} is not in 0 to 99; promote() gives a version all traffic")
        request = _versioned(models_pb2.SetTrafficRequest, version)
        request.percent = percent
        return read_traffic(self._call_models("SetTraffic", request, timeout))

    def _call_models(self, method: str, request: Any, timeout: Optional[float], *, repeatable: bool = True) -> Any:
        deadline = self._calls.deadline(timeout)
        return self._calls.unary(getattr(self._models, method), request, deadline, repeatable=repeatable)


@dataclass(frozen=True)
class _Handle:
    """What a server calls some features, and what its answers will hold."""

    number: int
    views: tuple[View, ...]
    keys: tuple[Field, ...]


class Prepared:
    """Features whose names are resolved. A server that was started anew is asked to resolve them again."""

    def __init__(self, client: Client, names: list[str], handle: _Handle) -> None:
        self._client = client
        self._names = names
        self._handle = handle

    @property
    def views(self) -> tuple[View, ...]:
        """The views in the order of the answers; their features are those asked for."""
        return self._handle.views

    @property
    def keys(self) -> tuple[Field, ...]:
        """The columns that keys must have."""
        return self._handle.keys

    def get(self, keys: ColumnsLike, as_of: Optional[datetime] = None, *, timeout: Optional[float] = None) -> Features:
        """As `Client.get_features`."""
        encoded = encode_keys(keys)
        deadline = self._client._calls.deadline(timeout)
        try:
            return self._client._get_prepared(self._handle, encoded, as_of, deadline)
        except FailedPrecondition:  # The server does not know the handle.
            self._handle = handle = self._client._prepare(self._names, deadline)
            return self._client._get_prepared(handle, encoded, as_of, deadline)


def _names(features: Sequence[str]) -> list[str]:
    if isinstance(features, str) or not features:
        raise InvalidArgument("features: give a list of names, such as ['view', 'view:feature']")
    return list(features)


def _request(keys: Keys, as_of: Optional[datetime], **asked: Any) -> features_pb2.GetFeaturesRequest:
    request = features_pb2.GetFeaturesRequest(**asked)
    for name, column in keys.columns.items():
        request.keys[name].CopyFrom(column)
    if as_of is not None:
        if not isinstance(as_of, datetime):
            raise InvalidArgument(
                f"as_of: a {type(as_of).__name__} is no datetime; give datetime(2018, 4, 1, tzinfo=timezone.utc)"
            )
        warn_of_naive([as_of], "as_of")
        request.as_of.CopyFrom(timestamp(as_of))
    return request


def _versioned(message: Any, version: int, field: str = "version") -> Any:
    """A request about a version."""
    try:
        return message(**{field: version})
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"{field}: {version!r} is no version's number") from error


def _channel(target: str, tls: Union[bool, StrPath, Tls, None]) -> grpc.Channel:
    if tls is None or tls is False:
        return grpc.insecure_channel(target, options=_OPTIONS)
    tls = Tls() if tls is True else tls if isinstance(tls, Tls) else Tls(root_certificates=tls)
    if (tls.certificate is None) != (tls.key is None):
        raise InvalidArgument("tls: a client's certificate and its key go together")
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_read(tls.root_certificates, "root_certificates"),
        private_key=_read(tls.key, "key"),
        certificate_chain=_read(tls.certificate, "certificate"),
    )
    name = [("grpc.ssl_target_name_override", tls.server_name)] if tls.server_name else []
    return grpc.secure_channel(target, credentials, options=[*_OPTIONS, *name])


def _read(path: Optional[StrPath], field: str) -> Optional[bytes]:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidArgument(f"tls: {field}: {error}") from error
