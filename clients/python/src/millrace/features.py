"""Answers of look-ups: what each view says, and all of it as rows, an Arrow table or a DataFrame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, Optional

from ._proto import features_pb2, values_pb2
from .columns import (
    ColumnsLike,
    check_rows,
    cut,
    decode,
    encode_columns,
    is_table,
    row_count,
    to_arrow,
    to_datetime,
    to_series,
)

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


class EntityStatus(Enum):
    """What a view knows of an entity."""

    #: Its windows cover at least one event as of the time asked for.
    PRESENT = "present"
    #: The store knows events of it, all older than the windows: counts are 0, other features null.
    OUT_OF_WINDOW = "out_of_window"
    #: The store knows no event of it before the time asked for: counts are 0, other features null.
    UNKNOWN = "unknown"
    #: Something that this client does not know yet.
    UNSPECIFIED = "unspecified"


class ViewStatus(Enum):
    """How much of its stream a view's answer reflects."""

    #: All that the topic held a moment ago.
    CURRENT = "current"
    #: Events are in the topic that the answer does not reflect yet.
    BEHIND = "behind"
    #: No event of the stream was read yet.
    EMPTY = "empty"
    #: The server has not heard Kafka for ten seconds, or does not read it: whether more is in the topic is not known.
    #: Or another process of its consumer group reads a part of the topic: the events of that are not in the answer.
    STALE = "stale"
    #: Something that this client does not know yet.
    UNSPECIFIED = "unspecified"


_ENTITY_STATUSES = {1: EntityStatus.PRESENT, 2: EntityStatus.OUT_OF_WINDOW, 3: EntityStatus.UNKNOWN}
_VIEW_STATUSES = {
    1: ViewStatus.CURRENT,
    2: ViewStatus.BEHIND,
    3: ViewStatus.EMPTY,
    4: ViewStatus.STALE,
}


@dataclass(frozen=True)
class Field:
    """A column of a stream or of an answer."""

    name: str
    #: As Arrow names it: `Utf8`, `Int64`, `Float64`.
    type: str


@dataclass(frozen=True)
class View:
    """A feature view of the project."""

    name: str
    stream: str
    #: The columns that name an entity: what keys must have.
    entity: tuple[Field, ...]
    features: tuple[Field, ...]
    #: How far back the longest window looks; None where time does not bound it.
    longest_window: Optional[timedelta]
    #: Names the definition: the same text, the same meaning.
    version: str


@dataclass(frozen=True)
class Keys:
    """The entities of a look-up."""

    columns: Mapping[str, values_pb2.Column]
    #: Of the DataFrame that the keys were, if they were one.
    index: Any

    def __len__(self) -> int:
        return next((row_count(column) for column in self.columns.values()), 0)

    def part(self, first: int, count: int) -> Keys:
        """Some of the entities."""
        if (first, count) == (0, len(self)):
            return self
        columns = {name: cut(column, first, count) for name, column in self.columns.items()}
        return Keys(columns, None if self.index is None else self.index[first : first + count])


class ViewAnswer:
    """What one view says, of each entity in the order of the keys."""

    def __init__(self, name: str, version: str, answer: features_pb2.ViewFeatures, names: Sequence[str]) -> None:
        self.name = name
        #: Names the view's definition: the same text, the same meaning.
        self.version = version
        self.status = _VIEW_STATUSES.get(answer.status, ViewStatus.UNSPECIFIED)
        #: Newest event time of the stream that the answer reflects; None as long as there is none.
        self.complete_until = _time(answer, "complete_until")
        #: The earliest time for which the view still has all events of its windows; None if nothing has expired.
        self.answers_since = _time(answer, "answers_since")
        self._statuses = answer.statuses
        self._columns = dict(zip(names, answer.features))

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features, in the order asked for."""
        return tuple(self._columns)

    @property
    def statuses(self) -> list[EntityStatus]:
        """What the view knows of each entity."""
        return [_ENTITY_STATUSES.get(status, EntityStatus.UNSPECIFIED) for status in self._statuses]

    def __getitem__(self, feature: str) -> list[Any]:
        """The values of a feature."""
        return decode(self._columns[feature])

    def __repr__(self) -> str:
        return f"<ViewAnswer {self.name}: {self.status.value}, features {', '.join(self.features)}>"


class Features:
    """Features of some entities as of one time. Columns are the keys' and then `view__feature`."""

    def __init__(self, keys: Keys, as_of: datetime, views: Mapping[str, ViewAnswer]) -> None:
        self.as_of = as_of
        #: By name, in the order in which the views were first named.
        self.views = views
        self._keys = keys
        for view in views.values():
            for feature, column in view._columns.items():
                check_rows(column, len(keys), f"{view.name}__{feature}")

    def __len__(self) -> int:
        return len(self._keys)

    def _named(self) -> Iterator[tuple[str, values_pb2.Column]]:
        yield from self._keys.columns.items()
        for view in self.views.values():
            for feature, column in view._columns.items():
                yield f"{view.name}__{feature}", column

    def _named_statuses(self) -> Iterator[tuple[str, list[str]]]:
        for view in self.views.values():
            yield f"{view.name}__entity_status", [status.value for status in view.statuses]

    def rows(self, *, statuses: bool = False) -> list[dict[str, Any]]:
        """One dict an entity; null is None. `statuses` adds `view__entity_status`."""
        columns: dict[str, list[Any]] = {name: decode(column) for name, column in self._named()}
        if statuses:
            columns.update(self._named_statuses())
        return [dict(zip(columns, values)) for values in zip(*columns.values())]

    def to_arrow(self, *, statuses: bool = False) -> pa.Table:
        """One row an entity. `statuses` adds `view__entity_status`. Needs pyarrow."""
        import pyarrow as pa

        columns: dict[str, Any] = {name: to_arrow(column) for name, column in self._named()}
        if statuses:
            columns.update((name, pa.array(values, pa.string())) for name, values in self._named_statuses())
        return pa.table(columns)

    def to_pandas(self, *, statuses: bool = False) -> pd.DataFrame:
        """One row an entity, with the index of the DataFrame that the keys were. Needs pandas."""
        import pandas as pd

        columns: dict[str, Any] = {name: to_series(column) for name, column in self._named()}
        if statuses:
            columns.update((name, pd.Series(values)) for name, values in self._named_statuses())
        frame = pd.DataFrame(columns)
        return frame if self._keys.index is None else frame.set_axis(self._keys.index)

    def __repr__(self) -> str:
        return f"<Features of {len(self)} entities as of {self.as_of.isoformat()}: {', '.join(self.views)}>"


def _time(message: Any, field: str) -> Optional[datetime]:
    return to_datetime(getattr(message, field)) if message.HasField(field) else None


def encode_keys(keys: ColumnsLike) -> Keys:
    """The messages for keys."""
    index = getattr(keys, "index", None) if is_table(keys) else None
    return Keys(encode_columns(keys, "keys"), index)


def read_features(
    answer: features_pb2.GetFeaturesResponse, keys: Keys, prepared: Optional[Sequence[View]] = None
) -> Features:
    """An answer, or a part of one. `prepared` has the names that answers to prepared requests leave out."""
    count = len(answer.views[0].statuses) if answer.views else len(keys)
    if prepared:
        views = [_named_answer(view, described) for view, described in zip(answer.views, prepared)]
    else:
        views = [_read_view(view) for view in answer.views]
    by_name = {view.name: view for view in views}
    return Features(keys.part(answer.first_row, count), to_datetime(answer.as_of), by_name)


def _read_view(view: features_pb2.ViewFeatures) -> ViewAnswer:
    return ViewAnswer(view.view, view.version, view, [column.name for column in view.features])


def _named_answer(view: features_pb2.ViewFeatures, prepared: View) -> ViewAnswer:
    return ViewAnswer(prepared.name, prepared.version, view, [feature.name for feature in prepared.features])


def read_fields(fields: Sequence[values_pb2.Field]) -> tuple[Field, ...]:
    """Columns and their types."""
    return tuple(Field(field.name, field.type) for field in fields)


def read_view(view: features_pb2.View) -> View:
    """A view's description."""
    window = view.longest_window
    return View(
        name=view.name,
        stream=view.stream,
        entity=read_fields(view.entity),
        features=read_fields(view.features),
        longest_window=timedelta(seconds=window.seconds, microseconds=window.nanos // 1_000)
        if view.HasField("longest_window")
        else None,
        version=view.version,
    )
