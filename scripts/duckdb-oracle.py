#!/usr/bin/env python3
"""Compares features with DuckDB: random views over random events, asked for at random times.

    duckdb-oracle.py MILLRACE [--rounds N] [--seed N] [--live N] [--keep DIR]

MILLRACE is the program. Needs the package duckdb (PyPI). Each round makes a project with a few views over payments and
labels, and asks for a few hundred rows. `millrace training-set` answers, and so does DuckDB: its own window frames,
without the row's instant, say which events count; for a view with a resolution, a join with edges that are rounded
down to a step. Every N-th round goes through Kafka as well, where Java 17 is there: the events come in pieces, in
batches of random size, while `millrace run` is killed with -9 and started again, and look-ups give the same values.
In some of these rounds events are deleted by tombstones, and some come again; files do not have what was deleted.

Integers, texts and booleans must be equal, floating point to 1e-9 of the size of what was added up, sketches within
their error. The seed of a round that differs is printed: run it again with --seed.
"""

import argparse
import pathlib
import random
import sys
import tempfile

import duckdb

from oracle import events, roads, values
from oracle.views import View


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("millrace")
    arguments.add_argument("--rounds", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=0, help="of the first round; the next ones count up")
    arguments.add_argument("--live", type=int, default=20, help="every N-th round goes through Kafka too; 0: none does")
    arguments.add_argument("--keep", help="leave the files of each round under this new folder")
    options = arguments.parse_args()
    compared, deletes = {"training-set": 0, "look-ups": 0}, 0
    seeds = range(options.seed, options.seed + options.rounds)
    with tempfile.TemporaryDirectory() as broker, roads.Kafka(broker, options.live > 0) as kafka:
        for seed in seeds:
            is_live = kafka.address and seed % options.live == 0
            with tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(options.keep or folder) / f"seed-{seed}"
                try:
                    deletes += compare(options.millrace, seed, folder, is_live and kafka, compared)
                except roads.Differs as why:
                    print(f"seed {seed} differs: {why}\nagain: {sys.argv[0]} MILLRACE --seed {seed} --rounds 1 "
                          f"--live {int(bool(is_live))} --keep DIR")
                    sys.exit(1)
    roads_taken = " and ".join(f"{count} values of {road}" for road, count in compared.items() if count)
    print(f"{options.rounds} rounds of random views: {roads_taken} equal DuckDB {duckdb.__version__}'s"
          f" ({deletes} events were deleted on the way)")


def compare(millrace, seed, folder, kafka, compared):
    """One round. On each road the same rows of the same views are asked for. Gives how many events were deleted."""
    rnd = random.Random(seed)
    views = [View(rnd, f"v{number}") for number in range(rnd.randint(1, 4))]
    has_id = rnd.random() < 0.75
    # An event that comes again after its step was settled would count again.
    with_duplicates = not any(view.settles() for view in views)
    payments = events.payments(rnd)
    delivered = {"tx": payments, "labels": events.labels(rnd, payments)}
    delivered = {stream: events.deliveries(rnd, rows, has_id, with_duplicates) for stream, rows in delivered.items()}
    # Deletes need ids, and are exact while a view keeps events one by one.
    is_keyed_by_id = has_id and with_duplicates and rnd.random() < 0.8
    deleted = {stream: events.deleted(rnd, rows) for stream, rows in delivered.items()} if is_keyed_by_id else {}
    left = {stream: events.left(rows, *deleted.get(stream, ([], []))) for stream, rows in delivered.items()}
    true = {stream: events.truth(rows) for stream, rows in left.items()}
    spine = events.spine(rnd, payments)
    folder.mkdir(parents=True)
    answers = {"training-set": roads.training_set(millrace, folder, rnd, views, has_id, left, spine)}
    if kafka:
        live = roads.Live(millrace, folder, kafka, seed, views, has_id, deleted)
        answers["look-ups"] = live.answers(delivered, spine)
    if has_id and any(orders != answers["training-set"][1] for _, orders in answers.values()):
        raise roads.Differs("the events have another order on each road")
    for road, (got, orders) in answers.items():
        check_order(true, orders)
        duck = values.Duck(folder, true, orders, spine)
        compared[road] += differences(road, views, spine, {view.name: duck.answers(view) for view in views}, got)
    return sum(len(gone) for gone, _ in deleted.values()) if kafka else 0


def check_order(true, orders):
    """Each event once, in the order of time. Those of one microsecond may stand in any order."""
    for stream, rows in true.items():
        times = {row["tx_id"]: row["event_time"] for row in rows}
        order = orders[stream]
        if sorted(order) != sorted(times) or order != sorted(order, key=times.get):
            raise roads.Differs(f"these are not the events of {stream} in the order of time: {order}")


def differences(road, views, spine, wanted, got):
    """How many values are equal. A look-up that was refused has none."""
    count = 0
    for view in views:
        for asked, theirs, ours in zip(spine, wanted[view.name], got, strict=True):
            for item, value, size in zip(view.items, theirs[::2], theirs[1::2], strict=True):
                name = f"{view.name}__{item.name}"
                if name not in ours:
                    continue
                if not values.equal(value, ours[name], item.compare, size):
                    raise roads.Differs(
                        f"{road}: row {asked}\n  {name} = {item.ours}\n  is {ours[name]!r}, and DuckDB says {value!r} "
                        f"of size {size!r}\n  {item.theirs}\n{view.sql()}")
                count += 1
    return count


if __name__ == "__main__":
    main()
