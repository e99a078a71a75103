"""Random feature views, in Millrace's SQL and in DuckDB's.

DuckDB has each frame of a view as a table `f`: for each row that is asked for (its `number`, and the time `asked`) the
events that the frame covers. An aggregate is then a plain sub-query over `f`, in a SELECT from the asked rows `s`.
"""

import re
from typing import NamedTuple, Optional

from oracle.events import SECOND

FILTERS = {
    "tx": ["", "", "approved", "true", "NOT approved", "units > 3", "shop % 2 = 0",
           "amount IS NOT NULL AND channel = 'web'", "channel LIKE '%p%' OR units BETWEEN 2 AND 4",
           "date_part('hour', event_time) < 12", "amount > 10.005"],
    "labels": ["", "is_fraud", "true", "shop IN (1, 2)", "tx_time < event_time"],
}
WHERES = {
    "tx": ["", "", "amount > 5.005", "approved OR units < 4", "channel <> 'web'", "coalesce(channel, '') <> ''"],
    "labels": ["", "", "is_fraud IS NOT NULL"],
}


class Expression(NamedTuple):
    ours: str
    # DuckDB's, where it differs.
    theirs: Optional[str] = None
    # When it fails, and so leaves the event out of its view.
    fails: str = "false"


E = Expression
# No two casts are of the same thing: they have the same name in DataFusion, which refuses them in one view.
EXPRESSIONS = {
    "tx": {
        "cents": [E("amount"), E("amount * 2 + units"), E("coalesce(amount, -1)"), E("abs(amount) / 3"),
                  E("CASE WHEN approved THEN amount WHEN units > 5 THEN 1 END"), E("nullif(amount, 10) - shop")],
        "wild": [E("weight"), E("weight * units"), E("-weight"), E("weight / 1e10"),
                 E("CASE WHEN units = 9 THEN CAST('NaN' AS DOUBLE) WHEN units = 8 THEN CAST('Infinity' AS DOUBLE) "
                   "WHEN units = 7 THEN CAST('-Infinity' AS DOUBLE) ELSE weight END"),
                 # Not 0 / 0: the NaN that a processor makes of it may be negative, which Arrow puts below all numbers.
                 E("CASE WHEN units > 5 AND abs(weight) > 0 THEN weight / 0e0 ELSE weight END")],
        "whole": [E("units"), E("shop"), E("units * 3 - shop"), E("units % 4"), E("big"),
                  E("CAST(amount AS BIGINT)", "trunc(amount)::BIGINT"), E("units / 2", "units // 2"), E("2"),
                  E("CASE channel WHEN 'web' THEN 1 WHEN 'pos' THEN 2 ELSE 0 END"), E("CAST(approved AS INT)"),
                  E("date_part('hour', event_time)"), E("length(channel)"), E("TRY_CAST(upper(code) AS BIGINT)"),
                  E("100 / units", "100 // units", "units = 0"),
                  E("CAST(code AS INT)", "TRY_CAST(code AS INT)",
                   "code IS NOT NULL AND TRY_CAST(code AS INT) IS NULL")],
        "text": [E("channel"), E("upper(channel)"), E("card || '-' || channel"), E("coalesce(channel, 'none')"),
                 E("CAST(units AS VARCHAR)"), E("tx_id")],
        "bool": [E("approved"), E("NOT approved"), E("units > 3"), E("channel IN ('web', 'app')"), E("amount IS NULL"),
                 E("approved AND units > 2")],
        "time": [E("event_time"), E("date_trunc('day', event_time)")],
        "date": [E("CAST(event_time AS DATE)")],
        "decimal": [E("CAST(abs(amount) AS DECIMAL(18, 2))")],
        "real": [E("CAST(-amount AS REAL)")],
    },
    "labels": {
        "cents": [E("CASE WHEN is_fraud THEN 1e0 ELSE 0e0 END")],
        "wild": [E("CASE WHEN is_fraud THEN 1 / 0e0 ELSE 15e-1 END")],
        "whole": [E("CAST(is_fraud AS INT)"), E("shop"), E("CASE WHEN is_fraud THEN 1 ELSE 0 END")],
        "text": [E("tx_id"), E("card")],
        "bool": [E("is_fraud"), E("NOT is_fraud"), E("is_fraud AND shop = 1")],
        "time": [E("event_time"), E("tx_time")],
        "date": [], "decimal": [], "real": [],
    },
}
ANY = ("cents", "wild", "whole", "text", "bool", "time", "date", "decimal", "real")


class Aggregate(NamedTuple):
    # {x} is its argument, {n} a small number, {q} a share, {us} a time in µs.
    ours: str
    theirs: str
    arguments: tuple
    # What it gives; none: what it takes.
    gives: Optional[str] = None
    # exact, bits, float, root, distinct or rank: see values.py.
    compare: str = "exact"
    # The size of what is added up, whose rounding errors stay where the sum is small.
    size: str = "max(0)"
    # Whether it needs single events, in their order or at all.
    is_single: bool = False
    # Whether it takes a FILTER.
    filters: bool = True


WEIGHT = "pow(2, -(epoch_us(asked) - epoch_us(event_time)) / {us}.0)"
FIRST = {"gives": None, "compare": "bits", "is_single": True, "filters": False}
A = Aggregate
AGGREGATES = [
    A("count(*)", "count(*)", ("none",), "count"),
    A("count({x})", "count({x})", ANY, "count"),
    A("count(DISTINCT {x})", "count(DISTINCT {x})", ("whole", "text", "bool", "date"), "count"),
    # A sum of whole numbers that overflows wraps.
    A("sum({x})", "wrap(sum({x}))", ("whole",)),
    A("sum(DISTINCT {x})", "wrap(sum(DISTINCT {x}))", ("whole",)),
    A("sum({x})", "sum({x})", ("cents", "wild", "real"), "double", "float", "sum(abs({x}))"),
    A("sum({x})", "sum({x})", ("decimal",)),
    A("avg({x})", "avg({x})", ("cents", "wild", "whole", "real"), "double", "float", "avg(abs({x}::DOUBLE))"),
    A("min({x})", "min({x})", ANY),
    A("max({x})", "max({x})", ANY),
    *[A(f"{name}({{x}})", f"{name}({{x}})", ("cents",), "double", "float", "avg({x} * {x})")
      for name in ("var_samp", "var_pop")],
    *[A(f"{name}({{x}})", f"{name}({{x}})", ("cents",), "root", "root", "avg({x} * {x})")
      for name in ("stddev", "stddev_pop")],
    *[A(f"{name}({{x}}, units)", f"{name}({{x}}, units)", ("price",), "double", "float", "max(abs({x})) * 9")
      for name in ("covar_samp", "covar_pop")],
    *[A(f"{name}({{x}})", f"{name}({{x}})", ("bool",)) for name in ("bool_and", "bool_or")],
    *[A(f"{name}({{x}})", f"{name}({{x}})", ("whole",)) for name in ("bit_and", "bit_or", "bit_xor")],
    A("median({x})", "median({x})", ("cents",), "double", "float", "max(abs({x}))", is_single=True),
    # DataFusion interpolates in steps of a millionth of the gap between two values.
    A("percentile_cont({x}, {q})", "quantile_cont({x}, {q})", ("cents",), "double", "float",
      "1e3 * (max({x}) - min({x}))", is_single=True),
    A("approx_percentile_cont({x}, {q})", "list({x} ORDER BY {x})", ("cents",), "list", "rank {q}"),
    A("approx_distinct({x})", "count(DISTINCT {x})", ("whole", "text"), "about", "distinct"),
    A("decayed_count(INTERVAL '{us} microseconds')", f"coalesce(sum({WEIGHT}), 0)", ("none",), "double", "float"),
    A("decayed_sum({x}, INTERVAL '{us} microseconds')", f"sum({{x}} * {WEIGHT})", ("cents", "whole"), "double", "float",
      f"sum(abs({{x}}::DOUBLE) * {WEIGHT})"),
    A("first_value({x})", "arg_min_null({x}, place)", ANY, **FIRST),
    A("last_value({x})", "arg_max_null({x}, place)", ANY, **FIRST),
    A("last_value({x}) IGNORE NULLS", "arg_max({x}, place)", ANY, **FIRST),
    A("nth_value({x}, {n})", "list({x} ORDER BY place)[{n}]", ANY, **FIRST),
    # Its frame is the n-th newest event alone, whatever its OVER says.
    A("lag({x}, {n})", "arg_max_null({x}, place)", ANY, **FIRST),
]

# What stands over aggregates: its type's place, both texts. {a} and {b} are aggregates that give what the list says.
WRAPS = [
    ("coalesce({a}, 0) / 4", None, ["double"], "float", "{sa}"),
    ("{a} / nullif({b}, 0)", None, ["double", "count"], "float", "{sa} / nullif({b}, 0)"),
    ("{a} - {b}", None, ["double", "double"], "float", "{sa} + {sb}"),
    ("CASE WHEN {a} > 3 THEN 'many' WHEN {a} = 0 THEN 'none' ELSE 'few' END", None, ["count"], "exact", "0"),
    ("{a} / 3 - {b}", "{a} // 3 - {b}", ["count", "count"], "exact", "0"),
    ("CAST({a} AS VARCHAR) || '!'", None, ["count"], "exact", "0"),
    ("coalesce({a}, false) OR {b} > 1", None, ["bool", "count"], "exact", "0"),
    ("CAST({a} AS DOUBLE) / nullif({b}, 0) > 1.5", None, ["count", "count"], "exact", "0"),
    # A time as a number of seconds has 22 bits below the point: 1e-9 of a thousand is four of the last.
    ("date_part('epoch', event_time) - date_part('epoch', {a})", "epoch(s.event_time) - epoch({a})", ["time"], "float",
     "1000"),
]


CAST = re.compile(r"(?:TRY_)?CAST\((.*?) AS \w+(?:\([\d, ]+\))?\)")


class Range(NamedTuple):
    """µs before the row: the far edge (None: unbounded) and the near one (None: the row itself)."""
    far: Optional[int]
    near: Optional[int]

    def sql(self):
        side = lambda us: f"INTERVAL '{us} microseconds' PRECEDING"
        far = side(self.far) if self.far else "UNBOUNDED PRECEDING"
        return f"RANGE BETWEEN {far} AND {side(self.near) if self.near else 'CURRENT ROW'}"


class Rows(NamedTuple):
    """Numbers of rows before the row: first (None: unbounded) and last (0: the row itself)."""
    first: Optional[int]
    last: int

    def sql(self):
        far = f"{self.first} PRECEDING" if self.first else "UNBOUNDED PRECEDING"
        return f"ROWS BETWEEN {far} AND {f'{self.last} PRECEDING' if self.last else 'CURRENT ROW'}"


class Item(NamedTuple):
    name: str
    ours: str
    theirs: str
    compare: str
    size: str


class View:
    """A view: in `items` what it gives, in `frames` what it looks at, in `fails` when an event is left out."""

    def __init__(self, rnd, name):
        self.rnd, self.name = rnd, name
        self.stream = "labels" if rnd.random() < 0.25 else "tx"
        self.entity = rnd.choice([["card"], ["card"], ["shop"], ["card", "shop"], ["shop", "site"]])
        self.where = rnd.choice(WHERES[self.stream])
        self.step = rnd.choice([None, None, None, 1, 60, 300, 3600, 86400])
        self.step = self.step and self.step * SECOND
        self.late = rnd.choice([3600, 4000 * 86400]) * SECOND
        self.frames = {f"w{n}": self.draw_frame() for n in range(rnd.randint(1, 4))}
        self.named = list(self.frames)
        self.fails = set()
        self.called = {}
        self.items = [self.draw_item(f"f{n}") for n in range(rnd.randint(1, 8))]

    def settles(self):
        """Whether steps are settled while events still come."""
        return self.step and self.late == 3600 * SECOND

    def draw_frame(self):
        rnd, step = self.rnd, self.step
        width = lambda: int(10 ** rnd.uniform(0, 6.5)) * SECOND if rnd.random() < 0.9 else 1
        kind = rnd.random()
        if kind < 0.25 and not step:
            rows = lambda: rnd.choice([1, 2, 5, 40, rnd.randint(1, 300)])
            last, first = sorted((rnd.choice([0, 1, rows()]), rows()))
            return Rows(rnd.choice([first, first, None]), last)
        if kind < 0.4:
            return Range(None, rnd.choice([None, None, width()]))
        if kind < 0.6:
            near, far = sorted((width(), width()))
            return Range(max(far, near + max(step or 0, 1)), near)
        return Range(max(width(), step or 0), None)

    def draw_call(self, gives=None):
        """An aggregate over a frame: (ours, DuckDB's, how they are compared, DuckDB's size)."""
        rnd, kinds = self.rnd, EXPRESSIONS[self.stream]
        price = [E("amount")] if self.stream == "tx" else []
        kinds = kinds | {"none": [E("")], "price": price}
        fits = [(a, kind) for a in AGGREGATES for kind in a.arguments
                if kinds[kind] and (gives is None or (a.gives or kind) == gives)
                and not (self.step and a.is_single)]
        names = sorted({a.ours for a, _ in fits})
        chosen = rnd.choice(names)
        aggregate, kind = rnd.choice([fit for fit in fits if fit[0].ours == chosen])
        x = rnd.choice(kinds[kind])
        window, number = rnd.choice(self.named), rnd.choice([1, 2, 3, 7])
        frame = window
        if aggregate.ours.startswith("lag("):
            frame = f"lag{number}"
            self.frames[frame] = Rows(number, number)
        small = {"n": number, "q": rnd.choice([0.01, 0.5, 0.9, 0.99]),
                 "us": int(10 ** rnd.uniform(6, 12))}
        condition = rnd.choice(FILTERS[self.stream]) if aggregate.filters else ""
        ours = aggregate.ours.format(x=x.ours, **small)
        ours += f" FILTER (WHERE {condition})" if condition else ""
        # DataFusion's names leave casts out, and a view with two aggregates of one name is refused.
        expression = ours + self.window(window)
        if self.called.setdefault(CAST.sub(r"\1", expression), expression) != expression:
            return self.draw_call(gives)
        self.fails.add(x.fails)
        ours += f" OVER {window if rnd.random() < 0.7 else self.window(window)}"
        of = lambda text: (f"(SELECT {text.format(x=f'({x.theirs or x.ours})', **small)} FROM {self.name}_{frame} f "
                           f"WHERE f.number = s.number{f' AND ({condition})' if condition else ''})")
        return ours, of(aggregate.theirs), aggregate.compare.format(**small), of(aggregate.size)

    def draw_item(self, name):
        rnd = self.rnd
        if rnd.random() < 0.6:
            return Item(name, *self.draw_call())
        ours, theirs, parts, compare, size = rnd.choice(WRAPS)
        calls = dict(zip("ab", (self.draw_call(gives) for gives in parts)))
        names = lambda place: {key: call[place] for key, call in calls.items()}
        # A call over no events has no size, and the other's counts.
        sizes = {f"s{key}": f"coalesce({call[3]}, 0)" for key, call in calls.items()}
        return Item(name, ours.format(**names(0)), (theirs or ours).format(**names(1)), compare,
                    size.format(**names(1), **sizes))

    def window(self, name):
        return f"(PARTITION BY {', '.join(self.entity)} ORDER BY event_time {self.frames[name].sql()})"

    def sql(self):
        items = self.entity + [f"{item.ours} AS {item.name}" for item in self.items]
        seconds = lambda us: f"'{us // SECOND} seconds'"
        options = f" WITH (resolution = {seconds(self.step)}, late = {seconds(self.late)})" if self.step else ""
        where = f"\nWHERE {self.where}" if self.where else ""
        windows = ",\n  ".join(f"{name} AS {self.window(name)}" for name in self.named)
        select = ",\n  ".join(items)
        return f"CREATE VIEW {self.name}{options} AS SELECT {select}\nFROM {self.stream}{where}\nWINDOW {windows};\n"
