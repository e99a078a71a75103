"""What DuckDB says of a round, and whether Millrace's values are the same."""

import math
from bisect import bisect_left, bisect_right
from datetime import date
from decimal import Decimal

import duckdb

from oracle.events import STREAMS, lines
from oracle.views import Range, Rows

# Of the standard error of a HyperLogLog with 2^14 registers, 1.04 / 128, five; and two collisions among a few values.
DISTINCT_ERROR, FEW = 5 * 1.04 / 128, 2
# A centroid of a t-digest of 100 holds 2 % of the values at most. Merged digests overlap, and a quantile lies between
# two centroids: it may be off by a few of them, or by a value where there are few.
RANK_ERROR = 0.06


class Duck:
    """DuckDB with a round's events. `orders` has the ids of each stream in the order of time and ties."""

    def __init__(self, folder, events, orders, spine):
        self.db = duckdb.connect()
        self.db.execute("SET ieee_floating_point_ops = true")
        # Whole numbers of 64 bits, as a sum of them wraps.
        self.db.execute("CREATE MACRO wrap(x) AS ((x::HUGEINT + (1::HUGEINT << 63)) % (1::HUGEINT << 64) "
                        "+ (1::HUGEINT << 64)) % (1::HUGEINT << 64) - (1::HUGEINT << 63)")
        for stream, columns in STREAMS.items():
            kinds = {name: kind.removesuffix(" NOT NULL") for name, kind in columns.items()} | {"place": "BIGINT"}
            place = {tx_id: place for place, tx_id in enumerate(orders[stream])}
            rows = [event | {"place": place[event["tx_id"]]} for event in events[stream]]
            self.load(folder / f"{stream}-true.jsonl", stream, kinds, rows)
        kinds = {"row": "BIGINT", "card": "VARCHAR", "shop": "INTEGER", "site": "VARCHAR", "event_time": "TIMESTAMP"}
        self.load(folder / "asked.jsonl", "s", kinds, spine)
        self.db.execute("ALTER TABLE s RENAME COLUMN row TO number")

    def load(self, path, table, kinds, rows):
        lines(path, rows)
        columns = ", ".join(f"{name}: '{kind}'" for name, kind in kinds.items())
        read = f"read_json('{path}', format = 'newline_delimited', columns = {{{columns}}})"
        self.db.execute(f"CREATE TABLE {table} AS SELECT * FROM {read}")

    def answers(self, view):
        """For each row that is asked for, each item's value and size."""
        named = " AND ".join(f"{column} IS NOT NULL" for column in view.entity)
        fails = " OR ".join(f"coalesce({fails}, false)" for fails in sorted(view.fails))
        self.db.execute(f"""
            CREATE OR REPLACE TABLE counted AS SELECT * FROM {view.stream}
            WHERE ({view.where or 'true'}) AND {named} AND NOT ({fails})""")
        # The rows that are asked for stand among the events, and are none.
        self.db.execute("""
            CREATE OR REPLACE TABLE mixed AS SELECT NULL::BIGINT AS number, true AS is_event, * FROM counted
            UNION ALL BY NAME SELECT *, false AS is_event FROM s""")
        for name, frame in view.frames.items():
            self.db.execute(f"CREATE TABLE {view.name}_{name} AS {frame_rows(view, frame)}")
        columns = ", ".join(f"{item.theirs}, {item.size}" for item in view.items)
        return self.db.execute(f"SELECT {columns} FROM s ORDER BY number").fetchall()


def frame_rows(view, frame):
    """The events that a frame covers, for each row that is asked for."""
    if view.step:
        same = " AND ".join(f"e.{column} = s.{column}" for column in view.entity)
        return (f"SELECT s.number, s.event_time AS asked, e.* FROM s JOIN counted e "
                f"ON {same} AND {between(frame, view.step)}")
    entity = ", ".join(view.entity)
    over = lambda range: (f"list_sort(list(place) FILTER (WHERE is_event) OVER (PARTITION BY {entity} "
                          f"ORDER BY event_time {range.sql()}{'' if range.near else ' EXCLUDE GROUP'}))")
    if isinstance(frame, Range):
        places = over(frame)
    else:
        # Rows that are asked for must not count as rows: the last events of all earlier ones.
        earlier = over(Range(None, None))
        first = f"greatest(len({earlier}) - {frame.first} + 1, 1)" if frame.first else "1"
        places = f"{earlier}[{first} : greatest(len({earlier}) - {max(frame.last - 1, 0)}, 0)]"
    return f"""
        SELECT number, asked, e.* FROM (
            SELECT number, event_time AS asked, unnest(places) AS place
            FROM (SELECT number, is_event, event_time, {places} AS places FROM mixed) WHERE NOT is_event)
        JOIN counted e USING (place)"""


def between(frame, step):
    """A frame of a view with a resolution, whose edges are rounded down to a step."""
    edge = lambda us: f"((epoch_us(s.event_time) - {us}) - (epoch_us(s.event_time) - {us}) % {step})"
    after = f"epoch_us(e.event_time) >= {edge(frame.far)}" if frame.far else "true"
    before = f"epoch_us(e.event_time) < {edge(frame.near)}" if frame.near else "e.event_time < s.event_time"
    return f"{after} AND {before}"


def equal(wanted, got, compare, size):
    """Whether a value is DuckDB's. `exact`: the same; `bits`: with the sign of a zero; `float`: to 1e-9 of the size of
    what was added up, as sums depend on the order of additions; `root`: the same of the squares, as a root of almost
    nothing is far from 0; `distinct`, `rank Q`: as close as a sketch promises.
    """
    kind, *share = compare.split()
    if kind == "rank":
        return near_rank([value for value in wanted or [] if value is not None], got, float(*share))
    if wanted is None or got is None:
        return wanted is None and got is None
    if isinstance(wanted, float) and isinstance(got, (int, float)):
        if math.isnan(wanted) or math.isnan(got):
            return math.isnan(wanted) and math.isnan(got)
        if kind == "bits":
            return wanted == got and math.copysign(1, wanted) == math.copysign(1, got)
    if type(wanted) is date:
        return str(wanted) == str(got)
    if isinstance(wanted, Decimal) or isinstance(got, Decimal):
        wanted, got = Decimal(str(wanted)), Decimal(str(got))
    if wanted == got or kind in ("exact", "bits"):
        return wanted == got
    if kind == "distinct":
        return abs(wanted - got) <= max(FEW, DISTINCT_ERROR * wanted)
    wanted, got = float(wanted), float(got)
    if math.isinf(wanted) or math.isinf(got):
        return False
    if kind == "root":
        wanted, got = wanted * wanted, got * got
    return abs(wanted - got) <= 1e-9 * max(abs(wanted), float(size or 0), 1e-300)


def near_rank(values, got, share):
    if not values or got is None:
        return not values and got is None
    slack = RANK_ERROR + 1 / len(values)
    # Interpolation may leave the last bits of a value that all are.
    below = bisect_left(values, got - 1e-9 * abs(got)) / len(values)
    above = bisect_right(values, got + 1e-9 * abs(got)) / len(values)
    return below - slack <= share <= above + slack
