"""Events to score, and their scores."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING, Any, Optional, Union, overload

from ._proto import scoring_pb2
from .columns import TableLike, encode_columns, is_table, to_datetime, warn_of_naive
from .errors import InvalidArgument

if TYPE_CHECKING:
    import pandas as pd

#: Events as dicts or JSON texts, as they stand in the stream's topic; or in columns, by the names in sources.sql.
Events = Union[Iterable[Union[str, Mapping[str, Any]]], TableLike]


@dataclass(frozen=True)
class Reason:
    """What one input did to a score."""

    input: str
    #: A number or, where the input is one, a text.
    value: Union[float, str, None]
    #: By how much the log odds of fraud are higher than with the input's median, or its most frequent text.
    contribution: float


@dataclass(frozen=True)
class Score:
    """What the model says of one event."""

    #: The event's id, as text.
    id: str
    #: The event's own time, which it was scored as of.
    event_time: datetime
    #: The probability of fraud, 0 to 1; None before there is a first model.
    probability: Optional[float]
    #: The version that gave it; None before there is a first model.
    model_version: Optional[int]
    #: What the project's thresholds make of the probability; None where it has none.
    decision: Optional[str]
    #: The model's inputs, numbers and texts, where they were asked for. One that is null is absent.
    inputs: Mapping[str, Union[float, str]]
    #: What moved the score most, the strongest first, where it was asked for.
    reasons: tuple[Reason, ...]


class Scores(Sequence[Score]):
    """One score an event, in the order of the events."""

    def __init__(
        self, scores: Sequence[Score], *, inputs: bool, reasons: bool, input_names: Sequence[str] = ()
    ) -> None:
        self._scores = tuple(scores)
        self._inputs = inputs
        self._names = tuple(input_names)
        self._reasons = reasons

    @overload
    def __getitem__(self, place: int) -> Score: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Score]: ...
    def __getitem__(self, place: Union[int, slice]) -> Union[Score, Sequence[Score]]:
        return self._scores[place]

    def __len__(self) -> int:
        return len(self._scores)

    def __iter__(self) -> Iterator[Score]:
        return iter(self._scores)

    def __repr__(self) -> str:
        return f"<Scores of {len(self)} events>"

    def rows(self) -> list[dict[str, Any]]:
        """One dict an event; `inputs` and `reasons` where they were asked for."""
        return [self._row(score) for score in self._scores]

    def _row(self, score: Score) -> dict[str, Any]:
        row: dict[str, Any] = {name: getattr(score, name) for name in _COLUMNS}
        if self._inputs:
            row["inputs"] = dict(score.inputs)
        if self._reasons:
            row["reasons"] = [vars(reason) for reason in score.reasons]
        return row

    def to_pandas(self) -> pd.DataFrame:
        """One row an event, with a column `input__name` for each input that was asked for. Needs pandas."""
        import pandas as pd

        frame = pd.DataFrame({name: [getattr(score, name) for score in self._scores] for name in _COLUMNS})
        frame["event_time"] = pd.to_datetime(frame["event_time"], utc=True)
        frame = frame.astype({"probability": "float64", "model_version": "Int64"})
        for name in self._input_names() if self._inputs else ():
            values = [score.inputs.get(name) for score in self._scores]
            is_text = any(isinstance(value, str) for value in values)
            frame[f"input__{name}"] = pd.Series(values, dtype=object if is_text else "float64")
        if self._reasons:
            frame["reasons"] = pd.Series([row["reasons"] for row in self.rows()], dtype=object)
        return frame

    def _input_names(self) -> list[str]:
        """The model's inputs, in its order. Of a server that does not name them, those that any event has."""
        return list(self._names) or sorted({name for score in self._scores for name in score.inputs})


#: What every row has.
_COLUMNS = ("id", "event_time", "probability", "model_version", "decision")


def encode_events(events: Events, *, inputs: bool, top_reasons: int) -> scoring_pb2.ScoreRequest:
    """The request for scores of events."""
    if top_reasons < 0:
        raise InvalidArgument(f"top_reasons: {top_reasons} is below 0")
    request = scoring_pb2.ScoreRequest()
    if inputs:
        request.include_inputs = True
    if top_reasons:
        request.top_reasons = top_reasons
    if is_table(events):
        for name, column in encode_columns(events, "events").items():
            request.columns[name].CopyFrom(column)
    elif isinstance(events, (str, bytes, Mapping)) or not isinstance(events, Iterable):
        raise InvalidArgument(f"events: a {type(events).__name__} is one event or none; give a list of events")
    else:
        request.event_json.extend(_json(event, f"events[{row}]") for row, event in enumerate(events))
    return request


def _json(event: Any, place: str) -> str:
    if isinstance(event, str):
        return event
    if not isinstance(event, Mapping):
        raise InvalidArgument(f"{place}: a {type(event).__name__} is no dict and no JSON text")
    warn_of_naive(event.values(), place)
    try:
        return json.dumps(dict(event), default=_plain, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"{place}: {error}") from error


def _plain(value: Any) -> Any:
    """What JSON has in the place of a value."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if hasattr(value, "dtype") and hasattr(value, "item"):  # numpy's scalars.
        return value.item()
    raise TypeError(f"a {type(value).__name__} has no place in JSON")


def read_scores(answer: scoring_pb2.ScoreResponse, *, inputs: bool, reasons: bool) -> Scores:
    """The scores of an answer."""
    scores = [_read_score(score) for score in answer.scores]
    return Scores(scores, inputs=inputs, reasons=reasons, input_names=answer.input_names)


def _read_score(score: scoring_pb2.Score) -> Score:
    return Score(
        id=score.id,
        event_time=to_datetime(score.event_time),
        probability=score.probability if score.HasField("probability") else None,
        model_version=score.model_version or None,
        decision=score.decision or None,
        inputs={**score.inputs, **score.text_inputs},
        reasons=tuple(map(_read_reason, score.reasons)),
    )


def _read_reason(reason: scoring_pb2.Reason) -> Reason:
    value = reason.value if reason.HasField("value") else None
    return Reason(reason.input, reason.text if reason.HasField("text") else value, reason.contribution)
