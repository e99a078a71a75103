"""What Feast knows of the cards: one entity, one view of twelve features, one service, and values for it.

The names are those of examples/fraud/features/card.sql, and two more. The values follow from the card's number
alone, so that a client can tell a right answer from a wrong one.
"""

from datetime import datetime, timedelta, timezone

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64, String

VIEW = "card_activity"
FEATURES = {
    "tx_count_1h": Int64,
    "amount_sum_1h": Float64,
    "tx_count_1d": Int64,
    "amount_sum_1d": Float64,
    "amount_max_1d": Float64,
    "terminals_1d": Int64,
    "tx_count_7d": Int64,
    "amount_sum_7d": Float64,
    "amount_avg_7d": Float64,
    "tx_count_30d": Int64,
    "amount_avg_30d": Float64,
    "amount_std_30d": Float64,
}


def card(number):
    """The card's id."""
    return str(number)


def value(number, feature):
    """What the card has for a feature: an integer for counts, an exact binary fraction for amounts."""
    whole = (number * 31 + list(FEATURES).index(feature) * 7) % 1000
    return whole if FEATURES[feature] is Int64 else whole + 0.25


def objects():
    """What is registered. The file is never read: values are written to the online store."""
    source = FileSource(name="cards", path="cards.parquet", timestamp_field="event_time")
    entity = Entity(name="card_id", join_keys=["card_id"], value_type=ValueType.STRING)
    view = FeatureView(
        name=VIEW,
        entities=[entity],
        ttl=timedelta(days=30),
        schema=[Field(name="card_id", dtype=String), *(Field(name=n, dtype=t) for n, t in FEATURES.items())],
        source=source,
        online=True,
    )
    return [source, entity, view, FeatureService(name=VIEW, features=[view])]


def rows(first, last):
    """The rows of the cards first to last - 1, as Feast takes them."""
    numbers = range(first, last)
    columns = {name: [value(number, name) for number in numbers] for name in FEATURES}
    return pd.DataFrame({"card_id": [card(n) for n in numbers], "event_time": datetime.now(timezone.utc), **columns})
