"""Values to messages, and back to Python, Arrow and pandas."""

import uuid
import warnings
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from millrace._proto.values_pb2 import Column
from millrace.columns import cut, decode, encode, encode_columns, to_arrow, to_series
from millrace.errors import InvalidArgument

NOON = datetime(2024, 5, 1, 12, 0, 0, 5, tzinfo=timezone.utc)
NOON_NAIVE = NOON.replace(tzinfo=None)
NOON_IN_ZURICH = NOON.astimezone(timezone(timedelta(hours=2)))
# pandas before version 2 has nanoseconds alone.
TIMES = f"datetime64[{'ns' if pd.__version__ < '2' else 'us'}, UTC]"
FIELDS = ("bools", "int64s", "uint64s", "doubles", "strings", "bytes", "timestamps")

CASES = {
    "bools": ([True, None, False], "bools", [True, None, False]),
    "ints": ([1, None, -(2**63)], "int64s", [1, None, -(2**63)]),
    "wide ints": ([1, 2**64 - 1], "uint64s", [1, 2**64 - 1]),
    "wider ints": ([1, -(2**64)], "strings", ["1", str(-(2**64))]),
    "ints and floats": ([1, 2.5], "doubles", [1.0, 2.5]),
    "texts": (["a", None, "Zürich"], "strings", ["a", None, "Zürich"]),
    "bytes": ([b"\xff", None], "bytes", [b"\xff", None]),
    "decimals": ([Decimal("1.50")], "strings", ["1.50"]),
    "dates": ([date(2024, 5, 1)], "strings", ["2024-05-01"]),
    "uuids": ([uuid.UUID(int=1)], "strings", [str(uuid.UUID(int=1))]),
    "times": ([NOON_IN_ZURICH, None], "timestamps", [NOON, None]),
    "times before 1970": ([datetime(1969, 12, 31, 23, 59, 59, 999_999, timezone.utc)], "timestamps", None),
    "nulls alone": ([None, None], "strings", [None, None]),
    "numpy ints": (np.array([1, 2], "int32"), "int64s", [1, 2]),
    "numpy wide ints": (np.array([2**63], "uint64"), "uint64s", [2**63]),
    "numpy texts": (np.array(["a", "b"]), "strings", ["a", "b"]),
    "numpy bools": (np.array([True, False]), "bools", [True, False]),
    "numpy nanoseconds": (np.array([NOON_NAIVE, "NaT"], "datetime64[ns]"), "timestamps", [NOON, None]),
    "numpy scalars": ([np.int64(1), None, np.int16(2)], "int64s", [1, None, 2]),
    "numpy time scalars": ([np.datetime64(NOON_NAIVE, "ns")], "timestamps", [NOON]),
    "pandas floats": (pd.Series([1.5, float("nan")]), "doubles", [1.5, None]),
    "pandas Int64": (pd.Series([1, None], dtype="Int64"), "int64s", [1, None]),
    "pandas objects": (pd.Series(["a", None], dtype=object), "strings", ["a", None]),
    "pandas categories": (pd.Series(["a", None, "a"], dtype="category"), "strings", ["a", None, "a"]),
    "pandas times": (pd.Series([NOON_IN_ZURICH, None]), "timestamps", [NOON, None]),
    "pandas times without zone": (pd.Series([NOON_NAIVE]), "timestamps", [NOON]),
    "pandas index": (pd.Index([1, 2]), "int64s", [1, 2]),
    "pandas nulls in a list": (["a", pd.NA], "strings", ["a", None]),
    "arrow": (pa.chunked_array([["a"], [None]]), "strings", ["a", None]),
    "a generator": ((str(n) for n in range(2)), "strings", ["0", "1"]),
}


@pytest.mark.filterwarnings("ignore:.*taken as UTC")
@pytest.mark.parametrize("values, field, expected", CASES.values(), ids=CASES)
def test_values_go_and_come_back(values, field, expected):
    expected = list(values) if expected is None else expected
    column = encode(values, "keys['x']")
    assert [name for name in FIELDS if len(getattr(column, name))] == [field]
    assert decode(column) == expected
    assert list(map(type, decode(column))) == list(map(type, expected))
    assert to_arrow(column).to_pylist() == expected
    series = to_series(column)
    assert [None if pd.isna(value) else value for value in series.tolist()] == expected


@pytest.mark.parametrize(
    "values, message",
    [
        ("42", "a str is no column; give a list of values"),
        (42, "a int is no column"),
        ({"a": 1}, "a dict is no column"),
        (["a", None, 1], "value 2 is a int, unlike those before it"),
        ([True, 1], "value 1 is a int, unlike those before it"),
        ([object()], "a object is no value of a column; these are: bool, int"),
        ([timedelta(1)], "a timedelta is no value of a column"),
        (np.zeros((2, 2)), "an array of 2 dimensions is no column"),
        (["\ud800"], ""),  # protobuf's own words, which differ.
    ],
)
def test_what_is_no_column_is_refused(values, message):
    with pytest.raises(InvalidArgument, match=r"^keys\['x'\]: ") as caught:
        encode(values, "keys['x']")
    assert message in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_columns_have_one_length():
    with pytest.raises(InvalidArgument, match="keys: the columns differ in length: 'a' has 1, 'b' has 2"):
        encode_columns({"a": [1], "b": [1, 2]}, "keys")
    with pytest.raises(InvalidArgument, match="keys: a list is no dict of columns"):
        encode_columns([1], "keys")


@pytest.mark.parametrize(
    "table", [pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), pa.table({"a": [1, 2], "b": ["x", "y"]})]
)
def test_tables_are_columns(table):
    columns = encode_columns(table, "keys")
    assert {name: decode(column) for name, column in columns.items()} == {"a": [1, 2], "b": ["x", "y"]}


def test_a_time_without_zone_is_told_where_it_was_given():
    with pytest.warns(UserWarning, match=r"keys\['x'\]: a datetime without a time zone is taken as UTC") as told:
        assert decode(encode([NOON_NAIVE], "keys['x']")) == [NOON]
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode([NOON_IN_ZURICH], "keys['x']")


@pytest.mark.parametrize(
    "column, arrow, pandas",
    [
        (Column(bools=[True, False]), "bool", "bool"),
        (Column(bools=[True, False], nulls=[1]), "bool", "boolean"),
        (Column(int64s=[1, 2]), "int64", "int64"),
        (Column(int64s=[1, 2], nulls=[0]), "int64", "Int64"),
        (Column(uint64s=[1, 2]), "uint64", "uint64"),
        (Column(uint64s=[1, 2], nulls=[0]), "uint64", "UInt64"),
        (Column(doubles=[1, 2], nulls=[0, 1]), "double", "float64"),
        (Column(strings=["", ""], nulls=[0, 1]), "string", None),
        (Column(bytes=[b"a"]), "binary", "object"),
        (encode([NOON, None], ""), "timestamp[us, tz=UTC]", TIMES),
        (Column(nulls=[0, 1]), "null", "object"),
        (Column(), "null", "object"),
    ],
)
def test_types(column, arrow, pandas):
    assert str(to_arrow(column).type) == arrow
    assert pandas in (None, str(to_series(column).dtype))


def test_cut_keeps_nulls_in_place():
    column = encode(["a", None, "c", None, "e"], "")
    assert [decode(cut(column, *part)) for part in ((0, 2), (2, 2), (4, 1))] == [["a", None], ["c", None], ["e"]]
