#!/usr/bin/env python3
"""How soon after its first labels is a new kind of fraud caught?

A generated stream gets three kinds of fraud that the generator does not know, one after the other. Each is there for
EPISODE days, is away for AWAY days, and comes back. Their labels come as late as all others, or within an hour
(`--labels`). The learner with hourly and with daily updates, the same model that is made once and never updated, and
XGBoost that is retrained each week on all labels that are known score the same events with the same inputs.

| kind | what is new | payments at once |
|---|---|---|
| small | payments of 0.50 to 1.00, at any time of day, with any card | one |
| burst | ten usual payments within an hour, with a card that pays less than once a day | ten |
| merchant | six usual payments within an hour, with as many cards, at a terminal that was not there before | six |

An event raises an alert if its score is among the highest 1% of the 24 hours before its hour. A kind is caught at its
first fraud of an episode with which alerts were raised for half of its newest WINDOW frauds.

  new_pattern.py --millrace PROGRAM --work FOLDER --output FILE [--seeds 1,2] [--labels late,early]
      [--runs hourly,daily,none,trees] [--reuse]

Needs: xgboost, scikit-learn, pyarrow, pandas.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import subprocess

import numpy as np
import pandas as pd
import xgboost
from sklearn.metrics import average_precision_score

from compare import TUNED

DAY, HOUR = np.timedelta64(1, "D"), np.timedelta64(1, "h")
START = np.datetime64("2018-04-01T00:00:00", "us")
LABEL_DELAY = 7 * DAY

KINDS = ("small", "burst", "merchant")
FIRST_DAY = 34  # a month of windows that are full, and four weeks of labels
EPISODE = 12
AWAY = 30
DAYS = FIRST_DAY + len(KINDS) * EPISODE + AWAY + EPISODE
SHARE = 0.005  # of all payments, while a kind is there

ALERTS = 0.01
WINDOW = 20
FEW = 10  # fewer frauds say nothing of a share


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millrace", required=True)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--output", required=True)
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--labels", default="late,early")
    parser.add_argument("--runs", default="hourly,daily,none,trees")
    parser.add_argument("--customers", type=int, default=5_000)
    parser.add_argument("--terminals", type=int, default=10_000)
    parser.add_argument("--reuse", action="store_true", help="take the scores of runs that are there")
    args = parser.parse_args()

    results, sizes = [], []
    for seed in args.seeds.split(","):
        for labels in args.labels.split(","):
            folder = args.work / f"seed-{seed}-{labels}"
            stream = Stream(args, folder, int(seed), early=labels == "early")
            sizes.append(dict(seed=int(seed), labels=labels, events=len(stream.events), added=int((stream.events.kind != "").sum())))
            names = args.runs.split(",")
            for name in names:
                if name == "trees":
                    scores, updates = weekly_trees(stream, folder / names[0]), None
                else:
                    scores, updates = simulate(args, stream, folder / name, runs()[name])
                results += report(stream, "XGBoost weekly" if name == "trees" else name, scores, updates, seed, labels)
    with open(args.output, "w") as file:
        machine = dict(system=platform.platform(), cores=os.cpu_count(), xgboost=xgboost.__version__)
        measured = dict(days=DAYS, episode_days=EPISODE, away_days=AWAY, share=SHARE, alerts=ALERTS, window=WINDOW)
        json.dump(dict(machine=machine, measured=measured, streams=sizes, results=results), file, indent=1)
        file.write("\n")


def runs():
    """The settings of each run. A period that ends on the first day of new fraud, and next in 48 years, is no update."""
    made_once = (START.astype("datetime64[D]") + FIRST_DAY).astype(int)
    return {
        "hourly": [],
        "daily": ["model.every=24h"],
        "none": [f"model.every={made_once}d", "learner.afresh_at_growth=1"],
    }


class Stream:
    """The generated payments with those of the new kinds among them, in files for `millrace simulate`."""

    def __init__(self, args, folder, seed, early):
        base = folder / "generated"
        size = ["--customers", args.customers, "--terminals", args.terminals, "--days", DAYS, "--seed", seed]
        command = [args.millrace, "generate", "--output", base, *size]
        subprocess.run([str(part) for part in command], check=True)
        events = pd.read_parquet(base / "transactions.parquet")
        truth = pd.read_parquet(base / "labels.parquet", columns=["tx_id", "is_fraud"])
        shutil.rmtree(base)
        events = events.merge(truth, on="tx_id").assign(kind="", episode=0)
        added = new_frauds(events, np.random.default_rng(seed))
        events = pd.concat([events, added]).sort_values("event_time", kind="stable").reset_index(drop=True)
        soon = np.random.default_rng(seed + 1).integers(300, 3600, len(events)).astype("timedelta64[s]")
        is_soon = early & (events.kind != "").to_numpy()
        events["known"] = events.event_time.to_numpy() + np.where(is_soon, soon, LABEL_DELAY.astype("timedelta64[s]"))
        self.events = events
        labels = events.rename(columns=dict(event_time="tx_time", known="event_time")).sort_values("event_time", kind="stable")
        self.files = {}
        for name, table, columns in (
            ("transactions", events, ["tx_id", "card_id", "terminal_id", "amount", "event_time"]),
            ("labels", labels, ["tx_id", "card_id", "terminal_id", "is_fraud", "tx_time", "event_time"]),
        ):
            self.files[name] = folder / f"{name}.parquet"
            table[columns].to_parquet(self.files[name], index=False)


def new_frauds(events, random):
    """The payments of all kinds and both episodes."""
    usual = Usual(events)
    a_day = SHARE * len(events) / DAYS
    rows = []
    for number, kind in enumerate(KINDS):
        for episode in (1, 2):
            first = FIRST_DAY + number * EPISODE + (episode - 1) * (EPISODE + AWAY)
            at_once = {"small": 1, "burst": 10, "merchant": 6}[kind]
            groups = round(a_day * EPISODE / at_once)
            for group, hours in enumerate(np.sort(random.uniform(0, 24 * EPISODE - 1, groups))):
                begun = START + first * DAY + np.timedelta64(int(hours * 3600), "s")
                seconds = np.sort(random.uniform(0, 3600, at_once)).astype(int)
                card = random.choice(usual.quiet if kind == "burst" else usual.cards)
                for one, second in enumerate(seconds):
                    if kind == "merchant" and one > 0:
                        card = random.choice(usual.cards)
                    amount = random.uniform(0.5, 1.0) if kind == "small" else usual.mean[card] * random.uniform(0.6, 1.4)
                    shop = f"{kind}-{episode}-{group}" if kind == "merchant" else random.choice(usual.terminals[card])
                    at = begun + np.timedelta64(int(second), "s")
                    rows.append((f"{kind}-{episode}-{group}-{one}", card, shop, round(amount, 2), at, True, kind, episode))
    return pd.DataFrame(rows, columns=list(events.columns)).astype({"event_time": "datetime64[us]"})


class Usual:
    """What is usual of each card, by its genuine payments."""

    def __init__(self, events):
        by_card = events[~events.is_fraud].groupby("card_id")
        self.mean = by_card.amount.mean().to_dict()
        self.terminals = {card: shops.unique() for card, shops in by_card.terminal_id}
        counts = by_card.size()
        self.cards = counts.index.to_numpy()
        self.quiet = counts.index[(counts < DAYS) & (counts > DAYS / 10)].to_numpy()


def simulate(args, stream, folder, settings):
    """Scores in the order of the stream's events, and what became of each version."""
    if not (args.reuse and (folder / "scores.parquet").exists()):
        command = [args.millrace, "--project", pathlib.Path(__file__).parent, "simulate", "--inputs", "--output", folder]
        command += ["--events", *(f"{name}={file}" for name, file in stream.files.items())]
        for setting in settings:
            command += ["--set", setting]
        subprocess.run([str(part) for part in command], check=True)
        shutil.rmtree(folder / "models")
    scores = pd.read_parquet(folder / "scores.parquet", columns=["tx_id", "score"])
    scores = stream.events[["tx_id"]].merge(scores, on="tx_id", how="left").score.to_numpy()
    updates = pd.read_json(folder / "updates.jsonl", lines=True)
    updates["until"] = pd.to_datetime(updates.time).dt.tz_localize(None)
    return scores, updates


def weekly_trees(stream, folder):
    """XGBoost's scores: trained first when the model that is made once is, and each week from then on. It gets the
    inputs that a run of the learner has written."""
    table = stream.events[["tx_id"]].merge(pd.read_parquet(folder / "scores.parquet"), on="tx_id")
    X = table.drop(columns=["tx_id", "event_time", "score", "model_version"]).to_numpy(dtype=np.float32)
    truth = stream.events.is_fraud.to_numpy().astype(np.int8)
    at, known = stream.events.event_time.to_numpy(), stream.events.known.to_numpy()
    predicted = np.full(len(X), np.nan)
    for today in range(FIRST_DAY, DAYS, 7):
        now = START + today * DAY
        model = xgboost.XGBClassifier(tree_method="hist", n_jobs=os.cpu_count(), **TUNED)
        model.fit(X[known < now], truth[known < now])
        ahead = (at >= now) & (at < now + 7 * DAY)
        predicted[ahead] = model.predict_proba(X[ahead])[:, 1]
    return predicted


def report(stream, name, scores, updates, seed, labels):
    events = stream.events
    at = events.event_time.to_numpy()
    alerts = alerted(at, scores)
    results = []
    for kind in KINDS:
        for episode in (1, 2):
            frauds = np.flatnonzero((events.kind == kind) & (events.episode == episode))
            begun, ended = at[frauds[0]], at[frauds[-1]]
            first_label = events.known.to_numpy()[frauds].min()
            caught_at = caught(at[frauds], alerts[frauds])
            during = (at >= begun) & (at <= ended)
            genuine = ~events.is_fraud.to_numpy() & during
            of_kind = np.zeros(len(events), dtype=bool)
            of_kind[frauds] = True
            before, after = at < first_label, at >= first_label + DAY
            result = dict(
                run=name,
                seed=int(seed),
                labels=labels,
                kind=kind,
                episode=episode,
                frauds=len(frauds),
                hours_from_first_fraud_to_first_label=hours(first_label - begun),
                hours_from_first_fraud=None if caught_at is None else hours(caught_at - begun),
                hours_from_first_label=None if caught_at is None else hours(caught_at - first_label),
                labels_known_then=None if caught_at is None else int((events.known.to_numpy()[frauds] < caught_at).sum()),
                hours_measured_after_first_label=hours(ended - first_label),
                recall_before_first_label=share(alerts[of_kind & before]),
                recall_from_a_day_after=share(alerts[of_kind & after]),
                average_precision_before_first_label=precision(of_kind, genuine & before, of_kind & before, scores),
                average_precision_from_a_day_after=precision(of_kind, genuine & after, of_kind & after, scores),
                average_precision_of_all=float(average_precision_score(events.is_fraud[during], scores[during])),
                alert_rate=share(alerts[during]),
            )
            if updates is not None:
                result["gate"] = gate(updates, first_label, ended)
            results.append(result)
            show(result)
    return results


def alerted(at, scores):
    """Whether each event's score is among the highest `ALERTS` of the 24 hours before its hour began."""
    alerts = np.zeros(len(at), dtype=bool)
    first = START + FIRST_DAY * DAY
    for hour in np.arange(first, at[-1] + HOUR, HOUR):
        begun, now, end = np.searchsorted(at, [hour - DAY, hour, hour + HOUR])
        recent = scores[begun:now]
        recent = recent[~np.isnan(recent)]
        # On the first day those of the hours so far, or of the day itself where there are none.
        recent = recent if len(recent) else scores[now : np.searchsorted(at, hour + DAY)]
        alerts[now:end] = scores[now:end] > np.quantile(recent, 1 - ALERTS)
    return alerts


def caught(at, alerts):
    """The time of the first fraud with which half of the newest `WINDOW` raised an alert."""
    newest = np.convolve(alerts.astype(int), np.ones(WINDOW, dtype=int))[WINDOW - 1 : len(alerts)]
    enough = np.flatnonzero(newest >= WINDOW / 2)
    return at[WINDOW - 1 + enough[0]] if len(enough) else None


def gate(updates, begun, ended):
    """What became of the versions that were made while the new labels came."""
    of_time = updates[(updates.until >= begun) & (updates.until <= ended)]
    aside = of_time.reason.fillna("").str.startswith("labels were put aside")
    counts = dict(periods=len(of_time), accepted=of_time.accepted.sum(), rejected=of_time.rejected.sum())
    counts |= dict(put_aside=aside.sum(), rolled_back=of_time.rolled_back.notna().sum())
    return {name: int(count) for name, count in counts.items()}


def precision(of_kind, genuine, frauds, scores):
    """Average precision of a kind's frauds among genuine events; none where there are too few frauds to tell."""
    chosen = genuine | frauds
    return float(average_precision_score(of_kind[chosen], scores[chosen])) if frauds.sum() >= FEW else None


def share(alerts):
    return float(alerts.mean()) if len(alerts) >= FEW else None


def hours(span):
    return round(float(span / np.timedelta64(1, "s")) / 3600, 1)


def show(r):
    number = lambda value, digits: "–" if value is None else f"{value:.{digits}f}"  # noqa: E731
    gate = r.get("gate")
    of_gate = f"  {gate['accepted']} of {gate['periods']} accepted, {gate['rejected']} rejected, {gate['put_aside']} put aside" if gate else ""
    print(
        f"{r['labels']:6}{r['kind']:9}{r['episode']}  {r['run']:15}caught {number(r['hours_from_first_label'], 1):>7} h after the "
        f"first label, {number(r['hours_from_first_fraud'], 1):>6} h after the first fraud  "
        f"recall {number(r['recall_before_first_label'], 2):>4} → {number(r['recall_from_a_day_after'], 2)}  "
        f"AP {number(r['average_precision_before_first_label'], 3)} → {number(r['average_precision_from_a_day_after'], 3)}"
        f"{of_gate}",
        flush=True,
    )


if __name__ == "__main__":
    main()
