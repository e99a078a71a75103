#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["duckdb>=1.1"]
# ///
"""Compare a generated card-payment stream with a public one, side by side.

Both folders hold transactions.parquet and labels.parquet, as `millrace generate --output DIR`
writes them. Days are counted from each stream's first, and both are cut to the days of the shorter
one. The last column is generated / public. Two streams of the same rules differ by chance: at 5,000
customers, by about 1% in events, 1% in amounts, and 2% (all) to 5% (a scenario) in frauds.

The files do not say why a payment is fraud, so that is inferred, the same way on both sides:

  2  compromised terminal: among the terminal's payments in time order, it is one of three or more
     frauds in a row
  1  large amount: of the others, those over 220 that the card's own spread explains, which is up to
     3 times the mean of its genuine payments (the standard deviation is half of the mean)
  3  leaked card: the rest

On a generated stream, where the reasons are known, the counts are right within about 10%, 1% and 3%
for the scenarios 1, 2 and 3.
"""

import argparse
import sys
from pathlib import Path

import duckdb

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1.0)
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

# One row a payment with its day since the first, its label and the inferred scenario.
PAYMENTS = """
CREATE TABLE payments AS
WITH labelled AS (
  SELECT t.tx_id, t.card_id, t.terminal_id, t.amount, t.event_time, l.is_fraud,
         l.event_time - t.event_time AS delay,
         date_diff('day', min(t.event_time) OVER (), t.event_time) AS day
  FROM read_parquet($transactions) t JOIN read_parquet($labels) l USING (tx_id)
), runs AS (
  SELECT *, row_number() OVER (PARTITION BY terminal_id ORDER BY event_time, tx_id)
          - row_number() OVER (PARTITION BY terminal_id, is_fraud ORDER BY event_time, tx_id) AS run
  FROM labelled
), measured AS (
  SELECT *, count(*) OVER (PARTITION BY terminal_id, is_fraud, run) AS run_length,
         avg(amount) FILTER (WHERE NOT is_fraud) OVER (PARTITION BY card_id) AS card_mean
  FROM runs
)
SELECT tx_id, card_id, terminal_id, amount, event_time, is_fraud, delay, day,
       CASE WHEN NOT is_fraud THEN 0
            WHEN run_length >= 3 THEN 2
            WHEN amount > 220 AND amount <= 3 * card_mean THEN 1
            ELSE 3 END AS scenario
FROM measured
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("public", type=Path, metavar="PUBLIC_DIR")
    parser.add_argument("generated", type=Path, metavar="GENERATED_DIR")
    args = parser.parse_args()
    try:
        streams = [load(folder) for folder in (args.public, args.generated)]
    except duckdb.Error as error:
        print(f"compare-stream: {error}", file=sys.stderr)
        return 2
    days = min(number(stream, "max(day) + 1") for stream in streams)
    for stream in streams:
        stream.execute("DELETE FROM payments WHERE day >= ?", [days])
    print(f"{'':34}{'public':>14}{'generated':>14}{'ratio':>9}")
    for title, section in SECTIONS:
        print(f"\n{title}")
        show(*(section(stream) for stream in streams))
    return 0


def load(folder: Path) -> duckdb.DuckDBPyConnection:
    """A database in memory with the table `payments` of one folder."""
    stream = duckdb.connect()
    files = {name: str(folder / f"{name}.parquet") for name in ("transactions", "labels")}
    stream.execute(PAYMENTS, files)
    rows = stream.execute("SELECT count(*) FROM read_parquet($transactions)", {"transactions": files["transactions"]})
    if rows.fetchone()[0] != number(stream, "count(*)"):
        raise duckdb.InvalidInputException(f"{folder}: not every payment has one label")
    return stream


def number(stream: duckdb.DuckDBPyConnection, expression: str):
    return stream.execute(f"SELECT {expression} FROM payments").fetchone()[0]


def show(public: dict, generated: dict) -> None:
    """The lines of both, in the public stream's order, then those that it lacks."""
    for name in public | generated:
        values = [side.get(name) for side in (public, generated)]
        cells = [f"{value:>14,.4g}" if isinstance(value, float) else f"{value!s:>14}" for value in values]
        print(f"  {name:32}{''.join(cells)}{ratio(*values)}")


def ratio(public, generated) -> str:
    if not all(isinstance(value, (int, float)) for value in (public, generated)) or not public:
        return ""
    return f"{generated / public:9.3f}"


def size(stream) -> dict:
    return {
        "days": number(stream, "max(day) + 1"),
        "events": number(stream, "count(*)"),
        "events a day": number(stream, "count(*) / (max(day) + 1)"),
        "cards active": number(stream, "count(DISTINCT card_id)"),
        "terminals active": number(stream, "count(DISTINCT terminal_id)"),
        "label delay, days": number(stream, "avg(epoch(delay)) / 86400"),
        "times with a part of a second": number(stream, "count(*) FILTER (event_time <> date_trunc('second', event_time))"),
    }


def groups(stream, keys: str, value: str) -> dict:
    """Mean, standard deviation and quantiles of an aggregate over groups of payments."""
    source = f"(SELECT ({value})::DOUBLE AS x FROM payments GROUP BY {keys})"
    return distribution(stream, source)


def distribution(stream, source: str) -> dict:
    mean, deviation, quantiles = stream.execute(
        f"SELECT avg(x), stddev(x), quantile_cont(x, {list(QUANTILES)}) FROM {source}"
    ).fetchone()
    return {"mean": mean, "standard deviation": deviation} | {
        f"quantile {q:g}": value for q, value in zip(QUANTILES, quantiles)
    }


def shares(stream, key: str, name) -> dict:
    """Per cent of the payments for each value of the key."""
    rows = stream.execute(f"SELECT {key}, 100.0 * count(*) / sum(count(*)) OVER () FROM payments GROUP BY 1 ORDER BY 1")
    return {name(value): share for value, share in rows.fetchall()}


def frauds(stream) -> dict:
    rates = {"all": number(stream, "100.0 * avg(is_fraud::INT)")}
    kinds = {1: "1 large amount", 2: "2 compromised terminal", 3: "3 leaked card"}
    for scenario, kind in kinds.items():
        rates[kind] = number(stream, f"100.0 * avg((scenario = {scenario})::INT)")
    rates["over 220, % of payments"] = number(stream, "100.0 * avg((amount > 220)::INT)")
    rates["genuine over 220"] = number(stream, "count(*) FILTER (NOT is_fraud AND amount > 220)")
    return rates


def frauds_by_week(stream) -> dict:
    rows = stream.execute("SELECT day // 7, 100.0 * avg(is_fraud::INT) FROM payments GROUP BY 1 ORDER BY 1")
    return {f"week {week}": rate for week, rate in rows.fetchall()}


def fraud_amounts(stream) -> dict:
    rows = stream.execute("SELECT scenario, avg(amount) FROM payments GROUP BY 1 ORDER BY 1")
    return {f"scenario {scenario}" if scenario else "genuine": mean for scenario, mean in rows.fetchall()}


SECTIONS = (
    ("Size", size),
    ("Events a card and day (days with any)", lambda s: groups(s, "card_id, day", "count(*)")),
    ("Events a card", lambda s: groups(s, "card_id", "count(*)")),
    ("Terminals a card", lambda s: groups(s, "card_id", "count(DISTINCT terminal_id)")),
    ("Events a terminal", lambda s: groups(s, "terminal_id", "count(*)")),
    ("Amount", lambda s: distribution(s, "(SELECT amount AS x FROM payments)")),
    ("Mean amount of a card", lambda s: groups(s, "card_id", "avg(amount)")),
    ("Hour of the day, %", lambda s: shares(s, "hour(event_time)", lambda hour: f"{hour:02}")),
    ("Weekday, %", lambda s: shares(s, "isodow(event_time)", lambda day: WEEKDAYS[day - 1])),
    ("Fraud, %", frauds),
    ("Fraud by week, %", frauds_by_week),
    ("Mean amount by scenario", fraud_amounts),
)

if __name__ == "__main__":
    sys.exit(main())
