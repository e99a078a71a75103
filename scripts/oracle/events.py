"""Random events, how they are delivered, and the rows that are asked for.

Two streams: payments, and labels that come some time after their payment. Events come in bursts, ties and gaps, with a
hot key, nulls, −0.0 and numbers from the tiniest to the largest. Their delivery is out of order; some events come
twice, and some were corrected in between: the delivery that comes last stays.
"""

import json
import random
from datetime import datetime, timedelta

START = 1_700_000_000_000_000
SECOND = 1_000_000
STREAMS = {
    "tx": {
        "tx_id": "VARCHAR NOT NULL", "site": "VARCHAR NOT NULL", "card": "VARCHAR NOT NULL", "shop": "INT",
        "amount": "DOUBLE", "weight": "DOUBLE", "units": "BIGINT", "big": "BIGINT", "channel": "VARCHAR",
        "code": "VARCHAR", "approved": "BOOLEAN", "event_time": "TIMESTAMP NOT NULL",
    },
    "labels": {
        "tx_id": "VARCHAR NOT NULL", "site": "VARCHAR NOT NULL", "card": "VARCHAR NOT NULL", "shop": "INT",
        "is_fraud": "BOOLEAN", "tx_time": "TIMESTAMP", "event_time": "TIMESTAMP NOT NULL",
    },
}
# All events are of this site: over it, all of a stream are one entity, whose order tells that of any other.
SITE = "one"


def payments(rnd):
    with_ties = rnd.random() < 0.7
    now, events = START, []
    cards = [f"c{n}" for n in range(rnd.randint(1, 6))]
    for number in range(rnd.choice([30, 300, 300, 1500])):
        kind = rnd.random()
        if kind < 0.25 and with_ties:
            pass
        elif kind < 0.4:
            now += rnd.randint(1, 5)
        elif kind < 0.95:
            now += rnd.randint(1, 60 * SECOND)
        else:
            now += rnd.randint(1, 40_000 * SECOND)
        if rnd.random() < 0.2:
            # Where the edges of windows and steps may lie.
            now += -now % (rnd.choice([1, 1, 60, 3600]) * SECOND)
        maybe = lambda value: None if rnd.random() < 0.1 else value
        events.append({
            "tx_id": f"t{number}",
            "site": SITE,
            "card": cards[0] if rnd.random() < 0.5 else rnd.choice(cards),
            "shop": maybe(rnd.randint(0, 3)),
            "amount": maybe(rnd.randint(-500, 5000) / 100),
            "weight": maybe(wild_number(rnd)),
            "units": maybe(rnd.randint(0, 9)),
            "big": maybe(rnd.choice([1, -1]) * rnd.randint(0, 2**rnd.choice([8, 40, 63]) - 1)),
            "channel": maybe(rnd.choice(["web", "pos", "app", "", "Ünï"])),
            "code": maybe(str(rnd.randint(0, 20)) if rnd.random() < 0.9 else rnd.choice(["", "x", "1 2"])),
            "approved": maybe(rnd.random() < 0.7),
            "event_time": now,
        })
    return events


def wild_number(rnd):
    kind = rnd.random()
    if kind < 0.2:
        return rnd.choice([0.0, -0.0, 5e-324, 1e300, -1e300])
    return rnd.choice([1, -1]) * 10 ** rnd.uniform(-12, 12)


def labels(rnd, payments):
    delay = lambda: rnd.choice([1, rnd.randint(1, 100_000) * SECOND, rnd.randint(1, 3_000_000) * SECOND])
    return [
        {key: payment[key] for key in ("tx_id", "site", "card", "shop")} | {
            "is_fraud": rnd.choice([True, False, False, None]),
            "tx_time": payment["event_time"],
            "event_time": payment["event_time"] + delay(),
        }
        for payment in rnd.sample(payments, len(payments) * 2 // 3)
    ]


def deliveries(rnd, events, has_id, with_duplicates):
    """Events as they arrive. A correction keeps the entity, the time, the id, and the columns of WHERE. Where the
    stream names no id, an event that comes again is another one.
    """
    delivered = list(events)
    again = rnd.sample(events, len(events) // 10)
    if not has_id:
        delivered += [event | {"tx_id": event["tx_id"] + "+"} for event in again]
    elif with_duplicates:
        delivered += [event | changes(rnd, event) for event in again]
    if rnd.random() < 0.5:
        rnd.shuffle(delivered)
    return delivered


def changes(rnd, event):
    if "weight" in event:
        return rnd.choice([{}, {"weight": wild_number(rnd), "big": rnd.randint(0, 9)}])
    return {} if event["is_fraud"] is None else {"is_fraud": not event["is_fraud"]}


def deleted(rnd, delivered):
    """Events that are deleted after all were delivered, and those of them that come again after that."""
    gone = rnd.sample(truth(delivered), len(delivered) // rnd.choice([2, 4, 20]))
    return gone, gone[:rnd.randint(0, len(gone))]


def left(delivered, gone, again):
    """What was delivered without what was deleted."""
    ids = {event["tx_id"] for event in gone}
    return [event for event in delivered if event["tx_id"] not in ids] + again


def truth(delivered):
    """The events that count: of each id the last delivery."""
    return list({event["tx_id"]: event for event in delivered}.values())


def spine(rnd, payments):
    """Rows to ask for: at, just before and just after events, between them, and after them all."""
    rows, t = [], START
    last = payments[-1]["event_time"]
    for number in range(rnd.randint(1, 200)):
        event = rnd.choice(payments)
        kind = rnd.random()
        if kind < 0.4:
            t = event["event_time"] + rnd.choice([-1, 0, 0, 0, 1])
        elif kind < 0.7:
            t = rnd.randint(START - SECOND, last + 3_000_000 * SECOND)
        elif kind < 0.8:
            # At the start of a step a view with a resolution can always be asked.
            unit = rnd.choice([1, 60, 86_400]) * SECOND
            t = event["event_time"] // unit * unit + rnd.choice([0, unit]) + rnd.choice([-1, 0, 0, 1])
        # Else as of the same time as the row before.
        nobody = {"card": "nobody", "shop": 99}
        rows.append({"row": number, "site": SITE, "event_time": t} | {
            column: event[column] if rnd.random() < 0.95 else rnd.choice([stranger, None])
            for column, stranger in nobody.items()
        })
    return rows


def lines(path, rows):
    times = lambda row: {key: iso(row[key]) for key in ("event_time", "tx_time") if key in row}
    with open(path, "w") as file:
        for row in rows:
            file.write(json.dumps({k: v for k, v in (row | times(row)).items() if v is not None}) + "\n")


def iso(us):
    return (datetime(1970, 1, 1) + timedelta(microseconds=us)).isoformat()
