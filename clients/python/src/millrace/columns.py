"""Between `Column` messages and what Python has: lists, numpy, pandas, Arrow.

numpy, pandas and pyarrow are imported only where a caller asks for them. Which list of a Column is filled, and what
stands in its place here, is one table: `_KINDS`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Callable, Optional, Protocol, Union
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from ._proto.values_pb2 import Column
from .errors import InvalidArgument, MillraceError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from typing_extensions import TypeGuard


class TableLike(Protocol):
    """A DataFrame or an Arrow table. Named by what they have: neither need be there, and a type checker would take
    anything for a class of a package that it does not find."""

    @property
    def columns(self) -> Any: ...
    def __getitem__(self, name: Any, /) -> Any: ...


#: Columns by name: a dict of lists, numpy arrays, pandas Series or Arrow arrays; a DataFrame; an Arrow table.
ColumnsLike = Union[Mapping[str, Any], TableLike]
#: One value of a column. None is null.
Value = Union[bool, int, float, str, bytes, datetime, None]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_INT64 = range(-(2**63), 2**63)
_UINT64 = range(2**64)


@dataclass(frozen=True)
class _Kind:
    """A list of a Column."""

    field: str
    #: What stands in the list where the value is null.
    filler: Any
    #: The pandas type of a column with nulls; None where the type without nulls can hold them.
    nullable: Optional[str]
    #: Arrow's type, from the module.
    arrow: Callable[[Any], Any]
    #: From the list's items to Python's values, where they differ.
    to_python: Optional[Callable[[Any], Any]] = None
    #: From Python's values to the list's items, where they differ.
    from_python: Optional[Callable[[Any], Any]] = None


def timestamp(value: datetime) -> Timestamp:
    """The message for a time. One without a time zone is taken as UTC."""
    since = (value if value.tzinfo else value.replace(tzinfo=timezone.utc)) - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1_000)


def to_datetime(value: Timestamp) -> datetime:
    """The time of a message, in UTC and cut to microseconds."""
    return _EPOCH + timedelta(seconds=value.seconds, microseconds=value.nanos // 1_000)


def _micros(value: Timestamp) -> int:
    return value.seconds * 1_000_000 + value.nanos // 1_000


_KINDS = {
    kind.field: kind
    for kind in (
        _Kind("bools", False, "boolean", lambda pa: pa.bool_()),
        _Kind("int64s", 0, "Int64", lambda pa: pa.int64()),
        _Kind("uint64s", 0, "UInt64", lambda pa: pa.uint64()),
        _Kind("doubles", 0.0, None, lambda pa: pa.float64()),
        _Kind("strings", "", None, lambda pa: pa.string(), from_python=str),
        _Kind("bytes", b"", None, lambda pa: pa.binary()),
        _Kind(
            "timestamps",
            Timestamp(),
            None,
            lambda pa: pa.timestamp("us", tz="UTC"),
            to_python=to_datetime,
            from_python=timestamp,
        ),
    )
}

#: The list for each type of Python's; types of one's own go with the first of their bases.
_FIELDS: dict[type, str] = {
    bool: "bools",
    int: "int64s",
    float: "doubles",
    str: "strings",
    bytes: "bytes",
    datetime: "timestamps",
    Decimal: "strings",
    date: "strings",
    time: "strings",
    UUID: "strings",
}

#: None, and what pandas has in its place.
_NULLS = ("NoneType", "NAType", "NaTType")


# ------------------------------------------------------------------------------------------------- to messages


def encode_columns(columns: ColumnsLike, place: str) -> dict[str, Column]:
    """The messages of columns, all of one length. `place` is the argument's name in errors."""
    encoded = {str(name): encode(values, f"{place}['{name}']") for name, values in named_columns(columns, place)}
    lengths = {name: row_count(column) for name, column in encoded.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"'{name}' has {length}" for name, length in lengths.items())
        raise InvalidArgument(f"{place}: the columns differ in length: {told}")
    return encoded


def named_columns(columns: ColumnsLike, place: str) -> Iterable[tuple[Any, Any]]:
    """The names and values of a dict, a DataFrame or an Arrow table."""
    if isinstance(columns, Mapping):
        return columns.items()
    if is_table(columns):
        names: Iterable[Any] = getattr(columns, "column_names", None) or columns.columns
        return [(name, columns[name]) for name in names]
    raise InvalidArgument(f"{place}: a {type(columns).__name__} is no dict of columns, DataFrame or Arrow table")


def is_table(value: Any) -> TypeGuard[TableLike]:
    """Whether it is a DataFrame or an Arrow table."""
    return hasattr(value, "columns") and hasattr(value, "__getitem__")


def encode(values: Any, place: str) -> Column:
    """The message of a column's values."""
    items = _listed(values, place)
    types = set(map(type, items))
    if any(hasattr(kind, "dtype") for kind in types):  # numpy's scalars in a list.
        items = list(map(_without_numpy, items))
        types = set(map(type, items))
    null_types = {kind for kind in types if kind.__name__ in _NULLS}
    nulls = [row for row, item in enumerate(items) if type(item) in null_types] if null_types else []
    field = _field_of(items, types - null_types, place)
    if field == "int64s":
        field = _int_field(item for item in items if type(item) not in null_types)
    if field == "timestamps" and isinstance(values, (list, tuple)):
        warn_of_naive(items, place)
    return _filled(_KINDS[field], items, nulls, place)


def _listed(values: Any, place: str) -> list[Any]:
    """Python's values of a column; null is None."""
    if isinstance(values, (str, bytes, Mapping, Set)) or not hasattr(values, "__iter__"):
        raise InvalidArgument(f"{place}: a {type(values).__name__} is no column; give a list of values")
    if getattr(values, "ndim", 1) != 1:
        raise InvalidArgument(f"{place}: an array of {values.ndim} dimensions is no column")
    if hasattr(values, "isna"):  # pandas.
        return [None if is_null else item for item, is_null in zip(values.tolist(), values.isna().tolist())]
    if getattr(getattr(values, "dtype", None), "kind", None) == "M":  # numpy's times, in whatever unit.
        return list(values.astype("datetime64[us]").tolist())
    for method in ("to_pylist", "to_list", "tolist"):  # Arrow, polars, numpy.
        if hasattr(values, method):
            return list(getattr(values, method)())
    return list(values)


def _without_numpy(item: Any) -> Any:
    """Python's value in the place of a scalar of numpy's."""
    if not hasattr(item, "dtype"):
        return item
    return (item.astype("datetime64[us]") if item.dtype.kind == "M" else item).item()


def _field_of(items: Sequence[Any], types: set[type], place: str) -> str:
    """Which list holds values of these types."""
    fields = {kind: _field_of_type(kind, place) for kind in types}
    found = set(fields.values())
    if found == {"int64s", "doubles"}:
        return "doubles"
    if len(found) > 1:
        first = next(fields[type(item)] for item in items if type(item) in fields)
        row = next(row for row, item in enumerate(items) if fields.get(type(item), first) != first)
        raise InvalidArgument(f"{place}: value {row} is a {type(items[row]).__name__}, unlike those before it")
    # A column of nulls alone goes as text, which the server parses to the column's own type.
    return found.pop() if found else "strings"


def _field_of_type(kind: type, place: str) -> str:
    for base in kind.__mro__:
        if base in _FIELDS:
            return _FIELDS[base]
    known = ", ".join(known.__name__ for known in _FIELDS)
    raise InvalidArgument(f"{place}: a {kind.__name__} is no value of a column; these are: {known}")


def _int_field(values: Iterable[int]) -> str:
    """Which list holds these integers; as text, what is too wide for both."""
    values = list(values)
    ends = (min(values), max(values))
    for field, reach in (("int64s", _INT64), ("uint64s", _UINT64)):
        if all(end in reach for end in ends):
            return field
    return "strings"


def warn_of_naive(times: Iterable[Any], place: str) -> None:
    """Says once that a datetime without a time zone is taken as UTC, as `datetime.now()` is not."""
    if any(isinstance(time, datetime) and time.tzinfo is None for time in times):
        message = f"{place}: a datetime without a time zone is taken as UTC"
        warnings.warn(message, UserWarning, stacklevel=_levels_to_caller())


def _levels_to_caller() -> int:
    """How many frames lie between a warning and the code that called this package."""
    level, frame = 0, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("millrace."):
        level, frame = level + 1, frame.f_back
    return level + 1


def _filled(kind: _Kind, items: list[Any], nulls: list[int], place: str) -> Column:
    convert = kind.from_python
    if nulls:
        absent = set(nulls)
        items = [kind.filler if row in absent else convert(item) if convert else item for row, item in enumerate(items)]
    elif convert:
        items = list(map(convert, items))
    column = Column(nulls=nulls)
    try:
        getattr(column, kind.field).extend(items)
    except (TypeError, ValueError) as error:  # Text that is no UTF-8, a year that no message holds.
        raise InvalidArgument(f"{place}: {error}") from error
    return column


# ----------------------------------------------------------------------------------------------- from messages


def _filled_kind(column: Column) -> Optional[_Kind]:
    return next((kind for field, kind in _KINDS.items() if len(getattr(column, field))), None)


def row_count(column: Column) -> int:
    """How many values a column has."""
    kind = _filled_kind(column)
    return len(getattr(column, kind.field)) if kind else len(column.nulls)


def cut(column: Column, first: int, count: int) -> Column:
    """Some rows of a column."""
    last = first + count
    part = Column(name=column.name, nulls=[row - first for row in column.nulls if first <= row < last])
    kind = _filled_kind(column)
    if kind:
        getattr(part, kind.field).extend(getattr(column, kind.field)[first:last])
    return part


def decode(column: Column) -> list[Value]:
    """Python's values of a column."""
    kind = _filled_kind(column)
    return _with_nulls(column, kind.to_python if kind else None)


def _with_nulls(column: Column, convert: Optional[Callable[[Any], Any]]) -> list[Any]:
    kind = _filled_kind(column)
    if kind is None:
        return [None] * len(column.nulls)
    values: list[Any] = list(getattr(column, kind.field))
    if convert:
        values = list(map(convert, values))
    for row in column.nulls:
        values[row] = None
    return values


def to_arrow(column: Column) -> pa.Array:
    """The column as an Arrow array. One without rows has Arrow's type null."""
    import pyarrow as pa

    kind = _filled_kind(column)
    if kind is None:
        return pa.nulls(len(column.nulls))
    return pa.array(_with_nulls(column, _plain(kind)), kind.arrow(pa))


def to_series(column: Column) -> pd.Series[Any]:
    """The column as a pandas Series: `int64` and `bool` where no value is null, else `Int64` and `boolean`."""
    import pandas as pd

    kind = _filled_kind(column)
    if kind is None:
        return pd.Series([None] * len(column.nulls), dtype=object)
    values = _with_nulls(column, _plain(kind))
    if kind.field == "timestamps":
        import numpy as np

        times = np.array([np.datetime64("NaT") if value is None else value for value in values], "datetime64[us]")
        series: pd.Series[Any] = pd.Series(times).dt.tz_localize("UTC")
        return series
    if kind.field == "doubles":
        return pd.Series(values, dtype="float64")
    dtype: Any = kind.nullable if column.nulls else "uint64" if kind.field == "uint64s" else None
    plain: pd.Series[Any] = pd.Series(values, dtype=dtype)
    return plain


def _plain(kind: _Kind) -> Optional[Callable[[Any], Any]]:
    """Times as microseconds, which Arrow and numpy take as they are."""
    return _micros if kind.field == "timestamps" else None


def check_rows(column: Column, rows: int, name: str) -> None:
    """Refuses a column of an answer that this client cannot read."""
    if row_count(column) != rows:
        raise MillraceError(
            f"the column '{name}' of the answer has {row_count(column)} values for {rows} rows that this client can "
            "read: the server may be newer than it"
        )
