#!/usr/bin/env python3
"""Compares features with DuckDB: random views over random events, asked for at random times.

    duckdb-oracle.py MILLRACE [--rounds N] [--seed N] [--keep DIR]

MILLRACE is the program. Needs the package duckdb (PyPI). Each round makes a project with one view, a file of events
(bursts, ties, gaps, late and duplicated events, a hot key, nulls) and a spine; `millrace training-set` answers it, and
so does DuckDB with window functions that exclude the row's own instant. Some views have a resolution: DuckDB then
aggregates, for each row of the spine, the events between edges that are rounded down to a step. Integers, texts and booleans must be equal,
floating point to 1e-9 of its size. The seed of a round that differs is printed: run it again with --seed.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta

import duckdb

START = 1_700_000_000_000_000
SECOND = 1_000_000
COLUMNS = {
    "tx_id": "VARCHAR", "card": "VARCHAR", "shop": "INTEGER", "amount": "DOUBLE", "units": "BIGINT",
    "channel": "VARCHAR", "approved": "BOOLEAN", "event_time": "TIMESTAMP",
}
SOURCES = """CREATE EXTERNAL TABLE tx (
  tx_id VARCHAR NOT NULL, card VARCHAR NOT NULL, shop INT, amount DOUBLE, units BIGINT, channel VARCHAR,
  approved BOOLEAN, event_time TIMESTAMP NOT NULL
) STORED AS KAFKA LOCATION 'tx' WITH ORDER (event_time) OPTIONS ('id' 'tx_id');
"""
FILTERS = ["", "approved", "NOT approved", "units > 3", "amount IS NOT NULL AND channel = 'web'", "shop % 2 = 0"]
WHERES = ["", "", "amount > 5", "approved OR units < 4", "channel <> 'web'"]


def interval(us):
    return f"INTERVAL '{us} microseconds'"


def frame(rnd, step):
    """The edges of a RANGE frame, µs before the row: far (None: unbounded) and near (None: the row itself)."""
    width = lambda: int(10 ** rnd.uniform(0, 6.5)) * SECOND if rnd.random() < 0.9 else 1
    kind = rnd.random()
    if kind < 0.15:
        return None, None
    if kind < 0.35:
        near, far = sorted((width(), width()))
        return max(far, near + max(step or 0, 1)), near
    return max(width(), step or 0), None


def ours_of(far, near):
    start = f"{interval(far)} PRECEDING" if far else "UNBOUNDED PRECEDING"
    return f"{start} AND " + (f"{interval(near)} PRECEDING" if near else "CURRENT ROW")


def theirs_of(far, near):
    return ours_of(far, near) + ("" if near else " EXCLUDE GROUP")


def between(far, near, step):
    """The same with a resolution, as a condition on an event e of a row s."""
    edge = lambda us: f"((epoch_us(s.event_time) - {us}) - (epoch_us(s.event_time) - {us}) % {step})"
    after = f"epoch_us(e.event_time) >= {edge(far)}" if far else "true"
    before = f"epoch_us(e.event_time) < {edge(near)}" if near else "e.event_time < s.event_time"
    return f"{after} AND {before}"


# Ours, DuckDB's ({f} is its filter), and how they are compared.
AGGREGATES = [
    ("count(*)", "count(*) {f}", "exact"),
    ("count(amount)", "count(amount) {f}", "exact"),
    ("sum(units)", "sum(units) {f}", "exact"),
    ("sum(amount)", "sum(amount) {f}", "float"),
    ("sum(amount * 2 + units)", "sum(amount * 2 + units) {f}", "float"),
    ("avg(amount)", "avg(amount) {f}", "float"),
    ("min(amount)", "min(amount) {f}", "exact"),
    ("max(units)", "max(units) {f}", "exact"),
    ("max(channel)", "max(channel) {f}", "exact"),
    ("var_samp(amount)", "var_samp(amount) {f}", "variance"),
    ("stddev_pop(amount)", "stddev_pop(amount) {f}", "variance"),
    ("bool_and(approved)", "bool_and(approved) {f}", "exact"),
    ("bool_or(approved)", "bool_or(approved) {f}", "exact"),
    ("count(DISTINCT shop)", "count(DISTINCT shop) {f}", "exact"),
    ("count(DISTINCT channel)", "count(DISTINCT channel) {f}", "exact"),
    ("approx_distinct(units)", "count(DISTINCT units) {f}", "approximate"),
    ("median(amount)", "median(amount) {f}", "float"),
    ("max(event_time)", "max(event_time) {f}", "exact"),
    ("decayed_count(INTERVAL '1 day')", "sum(pow(2, (epoch_us(event_time) - {start}) / 86400e6)) {f}", "decay"),
    ("decayed_sum(amount, INTERVAL '1 day')",
     "sum(amount * pow(2, (epoch_us(event_time) - {start}) / 86400e6)) {f}", "decay"),
]
# Need an order of the events: asked for where no two events of an entity share an instant.
ORDERED = [
    ("first_value(amount)", "arg_min_null(amount, event_time) {f}", "exact"),
    ("last_value(channel)", "arg_max_null(channel, event_time) {f}", "exact"),
]


class Round:
    def __init__(self, seed):
        self.rnd = rnd = random.Random(seed)
        self.ties = rnd.random() < 0.7
        self.entity = rnd.choice([["card"], ["card"], ["shop"], ["card", "shop"]])
        self.where = rnd.choice(WHERES)
        self.step = rnd.choice([None, None, 1, 60, 300, 3600, 86400])
        self.step = self.step and self.step * SECOND
        self.events = self.make_events()
        self.spine = self.make_spine()
        self.items = self.make_items()

    def make_events(self):
        rnd = self.rnd
        now, events = START, []
        cards = [f"c{n}" for n in range(rnd.randint(1, 6))]
        for number in range(rnd.choice([30, 300, 1500])):
            kind = rnd.random()
            if kind < 0.25 and self.ties:
                pass
            elif kind < 0.4:
                now += rnd.randint(1, 5)
            elif kind < 0.95:
                now += rnd.randint(1, 60 * SECOND)
            else:
                now += rnd.randint(1, 40_000 * SECOND)
            maybe = lambda value: None if rnd.random() < 0.1 else value
            events.append({
                "tx_id": f"t{number}",
                "card": cards[0] if rnd.random() < 0.5 else rnd.choice(cards),
                "shop": maybe(rnd.randint(0, 3)),
                "amount": maybe(rnd.randint(-500, 5000) / 100),
                "units": maybe(rnd.randint(0, 9)),
                "channel": maybe(rnd.choice(["web", "pos", "app", ""])),
                "approved": maybe(rnd.random() < 0.7),
                "event_time": now,
            })
        return events

    def make_spine(self):
        rnd = self.rnd
        rows = []
        last = self.events[-1]["event_time"]
        for number in range(rnd.randint(1, 200)):
            event = rnd.choice(self.events)
            kind = rnd.random()
            if kind < 0.5:
                t = event["event_time"] + rnd.choice([-1, 0, 0, 0, 1])
            elif kind < 0.9:
                t = rnd.randint(START - SECOND, last + 100_000 * SECOND)
            else:
                t = (event["event_time"] >> 20 << 20) + rnd.choice([-1, 0, 1])
            row = {"row": number, "event_time": t}
            for column in self.entity:
                row[column] = event[column] if rnd.random() < 0.95 else {"card": "nobody", "shop": 99}[column]
            rows.append(row)
        return rows

    def make_items(self):
        rnd = self.rnd
        items = []
        pool = AGGREGATES + ([] if self.ties else ORDERED)
        if self.step:
            pool = [item for item in AGGREGATES if "median" not in item[0]]
        for number in range(rnd.randint(1, 8)):
            ours, theirs, compare = rnd.choice(pool)
            edges = frame(rnd, self.step)
            condition = rnd.choice(FILTERS)
            partition = f"PARTITION BY {', '.join(self.entity)} ORDER BY event_time"
            # The rows that are asked for stand among the events, and are none.
            keep = f"FILTER (WHERE is_event{f' AND ({condition})' if condition else ''})"
            with_filter = condition and "first_value" not in ours and "last_value" not in ours
            if not with_filter:
                keep = "FILTER (WHERE is_event)"
            over = f"OVER ({partition} RANGE BETWEEN {ours_of(*edges)})"
            ours = f"{ours} {f'FILTER (WHERE {condition}) ' if with_filter else ''}{over}"
            if self.step:
                keep = f"FILTER (WHERE {condition or 'true'})"
                same = " AND ".join(f"e.{column} = s.{column}" for column in self.entity)
                where = f" AND ({self.where})" if self.where else ""
                theirs = (f"(SELECT {theirs.format(f=keep, start=START)} FROM tx e "
                          f"WHERE {same} AND {between(*edges, self.step)}{where})")
            else:
                theirs = f"{theirs.format(f=keep, start=START)} OVER ({partition} RANGE BETWEEN {theirs_of(*edges)})"
            now = "s.event_time" if self.step else "event_time"
            if compare == "decay":
                theirs = f"{theirs} * pow(2, -(epoch_us({now}) - {START}) / 86400e6)"
                if "count" in ours:
                    theirs = f"coalesce({theirs}, 0)"
            elif compare == "float" and rnd.random() < 0.3:
                ours = f"coalesce({ours}, 0) / 4"
                theirs = f"coalesce({theirs}, 0) / 4"
            elif "max(event_time)" in ours:
                ours = f"date_part('epoch', event_time) - date_part('epoch', {ours})"
                theirs = f"epoch({now}) - epoch({theirs})"
                compare = "seconds"
            items.append((f"f{number}", ours, theirs, compare))
        return items

    def write(self, folder):
        (folder / "features").mkdir()
        (folder / "millrace.toml").write_text("")
        (folder / "sources.sql").write_text(SOURCES)
        select = ", ".join(self.entity + [f"{ours} AS {name}" for name, ours, _, _ in self.items])
        where = f" WHERE {self.where}" if self.where else ""
        options = f" WITH (resolution = '{self.step // SECOND} seconds')" if self.step else ""
        (folder / "features" / "v.sql").write_text(f"CREATE VIEW v{options} AS SELECT {select} FROM tx{where};\n")
        # Out of order, and some of them twice: neither may matter.
        delivered = self.events + self.rnd.sample(self.events, len(self.events) // 10)
        self.rnd.shuffle(delivered)
        lines(folder / "events.jsonl", delivered)
        lines(folder / "spine.jsonl", self.spine)

    def expected(self, folder):
        db = duckdb.connect()
        columns = ", ".join(f"{name}: '{kind}'" for name, kind in COLUMNS.items())
        read = f"read_json('{{}}', format = 'newline_delimited', columns = {{{{{columns}, row: 'BIGINT'}}}})"
        db.execute(f"CREATE TABLE tx AS SELECT DISTINCT * EXCLUDE row FROM {read.format(folder / 'events.jsonl')}")
        db.execute(f"CREATE TABLE spine AS SELECT row AS number, card, shop, event_time FROM {read.format(folder / 'spine.jsonl')}")
        where = f"WHERE {self.where}" if self.where else ""
        select = ", ".join(f"{theirs} AS {name}" for name, _, theirs, _ in self.items)
        if self.step:
            return db.execute(f"SELECT false, {select} FROM spine s ORDER BY number").fetchall()
        return db.execute(f"""
            SELECT * EXCLUDE number FROM (SELECT number, is_event, {select} FROM (
              SELECT NULL::BIGINT AS number, true AS is_event, * FROM tx {where}
              UNION ALL BY NAME
              SELECT number, false AS is_event, card, shop, event_time FROM spine))
            WHERE NOT is_event ORDER BY number""").fetchall()


def lines(path, rows):
    with open(path, "w") as file:
        for row in rows:
            time = datetime(1970, 1, 1) + timedelta(microseconds=row["event_time"])
            row = row | {"event_time": time.isoformat()}
            file.write(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n")


def equal(wanted, got, compare, size):
    if wanted is None or got is None:
        return wanted is None and got is None
    if compare == "exact":
        return wanted == got
    if compare == "approximate":
        return abs(wanted - got) <= max(1, 0.03 * wanted)
    # A variance is a difference of squares, a time of day has microseconds: its size is that of what was subtracted.
    scale = {"float": max(abs(wanted), 1.0), "variance": max(abs(wanted), size), "decay": max(abs(wanted), 1e-6),
             "seconds": 1e4}[compare]
    return abs(float(wanted) - float(got)) <= 1e-9 * scale


def run(millrace, seed, folder):
    test = Round(seed)
    test.write(folder)
    command = [millrace, "--project", folder, "training-set", "--events", f"tx={folder / 'events.jsonl'}",
               "--spine", folder / "spine.jsonl", "--output", folder / "out.jsonl"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return f"millrace failed: {done.stderr}", 0
    got = [json.loads(line) for line in open(folder / "out.jsonl")]
    expected = test.expected(folder)
    if [row["row"] for row in got] != [row["row"] for row in test.spine]:
        return "the rows are not those of the spine, in its order", 0
    for number, (wanted, row) in enumerate(zip(expected, got, strict=True)):
        asked = test.spine[number]
        for (name, ours, theirs, compare), value in zip(test.items, wanted[1:], strict=True):
            mine = row.get(f"v__{name}")
            unnamed = any(asked[column] is None for column in test.entity)
            # To DuckDB null is a key like any other; here an event without its entity counts for none.
            if not unnamed and not equal(value, mine, compare, 2500.0):
                return f"row {number} {asked}\n  {ours}\n  is {mine!r}, and DuckDB says {value!r}\n  {theirs}", 0
    return None, len(expected) * len(test.items)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("millrace")
    arguments.add_argument("--rounds", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=0, help="of the first round; the next ones count up")
    arguments.add_argument("--keep", help="leave the last round's project in this folder")
    options = arguments.parse_args()
    compared = 0
    for seed in range(options.seed, options.seed + options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(options.keep or folder)
            folder.mkdir(parents=True, exist_ok=True)
            wrong, values = run(options.millrace, seed, folder)
            if wrong:
                print(f"seed {seed} differs: {wrong}\nagain: {sys.argv[0]} MILLRACE --seed {seed} --rounds 1 --keep DIR")
                sys.exit(1)
            compared += values
    print(f"{options.rounds} random views: {compared} values equal DuckDB {duckdb.__version__}'s")


if __name__ == "__main__":
    main()
