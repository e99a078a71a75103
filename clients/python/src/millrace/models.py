"""Versions of the model, and who answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Optional

from ._proto import models_pb2
from .columns import to_datetime


@dataclass(frozen=True)
class Model:
    """A version of the model."""

    version: int
    #: The version that it was warm-started from; None for one that started afresh.
    parent: Optional[int]
    created: datetime
    #: Labels that its update learned for the first time.
    rows: int
    #: Event time of the newest label that it has learned.
    trained_until: Optional[datetime]
    #: On the labels that came after its update; None until there are some.
    prequential_average_precision: Optional[float]
    #: In nats a label, on the labels that the next version was made of; None until there is one.
    prequential_log_loss: Optional[float]
    #: Whether it takes the traffic.
    champion: bool
    #: Where it was trained: `cpu`, `cuda:0`.
    device: str
    #: Where it is in its life: `shadow`, `canary 10 %`, `champion`, `replaced`, `rejected`, `rolled back`.
    state: Optional[str]


@dataclass(frozen=True)
class Step:
    """A step in the life of a version."""

    at: datetime
    state: str
    reason: str


@dataclass(frozen=True)
class ModelDetail:
    """A version, and what became of it."""

    model: Model
    #: Oldest first.
    life: tuple[Step, ...]
    #: The names of its inputs, in order.
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Traffic:
    """Who answers."""

    champion: Optional[int]
    canary: Optional[int]
    #: Of so many of a hundred entities.
    canary_percent: int
    #: What was done, in words.
    message: str


def read_model(model: models_pb2.Model) -> Model:
    """A version."""
    return Model(
        version=model.version,
        parent=_present(model, "parent"),
        created=to_datetime(model.created),
        rows=model.rows,
        trained_until=to_datetime(model.trained_until) if model.HasField("trained_until") else None,
        prequential_average_precision=_present(model, "prequential_average_precision"),
        prequential_log_loss=_present(model, "prequential_log_loss"),
        champion=model.champion,
        device=model.device,
        state=model.state or None,
    )


def read_detail(answer: models_pb2.GetModelResponse) -> ModelDetail:
    """A version with its life."""
    life = (Step(to_datetime(step.at), step.state, step.reason) for step in answer.life)
    return ModelDetail(read_model(answer.model), tuple(life), tuple(answer.inputs))


def read_traffic(answer: models_pb2.TrafficResponse) -> Traffic:
    """Who answers now."""
    return Traffic(_present(answer, "champion"), _present(answer, "canary"), answer.canary_percent, answer.message)


def _present(message: Any, field: str) -> Any:
    return getattr(message, field) if message.HasField(field) else None
