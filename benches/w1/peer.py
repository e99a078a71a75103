#!/usr/bin/env python3
"""The workload's answers by DuckDB and by plain Python, for the benchmark to be compared with.

    peer.py EVENTS.jsonl

Prints a line of JSON: answers a second of each, reading included, and the sums that the benchmark prints of its own.
DuckDB goes to a virtual environment in ${XDG_CACHE_HOME:-~/.cache}/millrace/duckdb, once. Plain Python is what one
would write without an engine: dicts and deques on one core.
"""

import json
import os
import pathlib
import subprocess
import sys
import time
from collections import deque
from datetime import datetime

VENV = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "millrace" / "duckdb"
HOUR_US = 3_600_000_000
WIDTHS_US = {"1h": HOUR_US, "1d": 24 * HOUR_US, "7d": 7 * 24 * HOUR_US}
INTERVALS = {"1h": "1 hour", "1d": "1 day", "7d": "7 days"}


def main():
    enter_venv()
    print(json.dumps({"duckdb": by_duckdb(sys.argv[1]), "plain_python": by_python(sys.argv[1])}), flush=True)


def enter_venv():
    """Starts over with the environment's Python, which has DuckDB."""
    python = str(VENV / "bin/python")
    if not (VENV / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True, stdout=sys.stderr)
        subprocess.run([python, "-m", "pip", "-q", "install", "duckdb"], check=True, stdout=sys.stderr)
        (VENV / "complete").touch()
    if pathlib.Path(sys.prefix) != VENV:
        os.execv(python, [python, *sys.argv])


def by_duckdb(events):
    import duckdb

    aggregates = ["count(*) OVER {0} AS n_{0}", "sum(amount) OVER {0} AS sum_{0}", "avg(amount) OVER {0} AS avg_{0}",
                  "max(amount) OVER {0} AS max_{0}"]
    columns = [aggregate.format(f"w{name}") for name in WIDTHS_US for aggregate in aggregates]
    windows = [f"w{name} AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '{interval}' PRECEDING "
               "AND CURRENT ROW EXCLUDE GROUP)" for name, interval in INTERVALS.items()]
    started = time.perf_counter()
    connection = duckdb.connect()
    output = pathlib.Path(events).with_suffix(".answers.parquet")
    connection.execute(f"""COPY (SELECT tx_id, {", ".join(columns)}, count(DISTINCT merchant_id) OVER w1d AS merchants
      FROM read_json('{events}', format = 'newline_delimited', columns = {{tx_id: 'VARCHAR', card_id: 'VARCHAR',
        merchant_id: 'VARCHAR', amount: 'DOUBLE', event_time: 'TIMESTAMP'}})
      WINDOW {", ".join(windows)}) TO '{output}'""")
    seconds = time.perf_counter() - started
    sums = connection.execute(f"""SELECT count(*), sum(n_w1h), sum(n_w1d), sum(n_w7d), sum(merchants), sum(sum_w7d),
      sum(max_w1d) FROM '{output}'""").fetchone()
    output.unlink()
    return figures(sums, seconds, duckdb.__version__)


def figures(sums, seconds, version):
    names = ["count", "n_1h", "n_1d", "n_7d", "merchants_1d", "sum_7d", "max_1d"]
    sums = {name: float(value) if name.startswith(("sum", "max")) else int(value) for name, value in zip(names, sums)}
    return {"version": version, "answers_per_second": round(sums["count"] / seconds), "sums": sums}


class Window:
    """The events of a card in the last so many microseconds, with their aggregates kept as they come and go."""

    def __init__(self, width_us):
        self.width_us = width_us
        self.events = deque()
        self.maxima = deque()
        self.sum = 0.0
        self.merchants = {} if width_us == WIDTHS_US["1d"] else None

    def move_to(self, time_us):
        start = time_us - self.width_us
        while self.events and self.events[0][0] < start:
            _, amount, merchant = self.events.popleft()
            self.sum -= amount
            if self.merchants is not None:
                left = self.merchants[merchant] - 1
                if left:
                    self.merchants[merchant] = left
                else:
                    del self.merchants[merchant]
        while self.maxima and self.maxima[0][0] < start:
            self.maxima.popleft()

    def answer(self, time_us):
        self.move_to(time_us)
        count = len(self.events)
        if not count:
            return 0, 0.0, None, None
        return count, self.sum, self.sum / count, self.maxima[0][1]

    def add(self, time_us, amount, merchant):
        self.events.append((time_us, amount, merchant))
        self.sum += amount
        while self.maxima and self.maxima[-1][1] <= amount:
            self.maxima.pop()
        self.maxima.append((time_us, amount))
        if self.merchants is not None:
            self.merchants[merchant] = self.merchants.get(merchant, 0) + 1


def by_python(events):
    cards = {}
    sums = [0, 0, 0, 0, 0, 0.0, 0.0]
    started = time.perf_counter()
    for line in open(events, encoding="utf-8"):
        event = json.loads(line)
        at = datetime.fromisoformat(event["event_time"].replace("Z", "+00:00"))
        time_us = int(at.timestamp() * 1e3 + 0.5) * 1_000
        windows, instant = cards.setdefault(
            event["card_id"], (tuple(Window(width) for width in WIDTHS_US.values()), []))
        if instant and instant[0][0] < time_us:
            # An event counts for those after its own instant.
            for other in instant:
                for window in windows:
                    window.add(*other)
            instant.clear()
        hour, day, week = (window.answer(time_us) for window in windows)
        for place, value in enumerate((1, hour[0], day[0], week[0], len(windows[1].merchants), week[1], day[3] or 0.0)):
            sums[place] += value
        instant.append((time_us, event["amount"], event["merchant_id"]))
    return figures(sums, time.perf_counter() - started, sys.version.split()[0])


if __name__ == "__main__":
    main()
