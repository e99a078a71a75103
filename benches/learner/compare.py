#!/usr/bin/env python3
"""Compares the online learner with XGBoost on the same events, inputs and protocol.

The learner's scores and what it saw of each event come from `millrace simulate --inputs`, which scores each event
before anything later is known. XGBoost gets the same inputs, float32, missing as NaN, and at each training the
labels that were known by then. Both are measured on the same events: those from day FROM on.

With --limit, beside them what the inputs tell at most, about: XGBoost that knows all labels at once, those of days to
come too, but for those of the days that it scores.

  compare.py --run NAME=DIR … --labels labels.parquet [--from-day 45] [--retrain once,weekly,…] [--limit] --output FILE

Needs: xgboost, scikit-learn, pyarrow, pandas.
"""

import argparse
import json
import os
import platform
import time

import numpy as np
import pandas as pd
import xgboost
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

DAY = np.timedelta64(1, "D")

TUNED = dict(n_estimators=300, max_depth=6, learning_rate=0.05, subsample=0.8, colsample_bytree=0.8, min_child_weight=5)
DEFAULT = dict()

# The limit: of each so many days in a row, one part is scored by a model of the others.
KNOWS_THE_FUTURE = "XGBoost that knows the future"
LIMIT_DAYS, LIMIT_PARTS = 3, 5
LIMIT = TUNED | dict(n_estimators=500)

# name: (days between trainings, days of history or none for all, parameters)
PROTOCOLS = {
    "once": (None, None, TUNED),
    "once-default": (None, None, DEFAULT),
    "daily-30d": (1, 30, TUNED),
    "daily-30d-default": (1, 30, DEFAULT),
    "weekly-all": (7, None, TUNED),
    "weekly-all-default": (7, None, DEFAULT),
    "daily-all": (1, None, TUNED),
    "daily-all-default": (1, None, DEFAULT),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--from-day", type=int, default=45)
    parser.add_argument("--retrain", default="once,daily-30d,weekly-all,weekly-all-default")
    parser.add_argument("--limit", action="store_true", help="also train one that knows the future")
    parser.add_argument("--samples", type=int, default=500, help="bootstrap samples")
    parser.add_argument("--output", required=True)
    args = parser.parse_args()

    labels = pd.read_parquet(args.labels, columns=["tx_id", "is_fraud", "event_time"])
    labels = labels.rename(columns={"event_time": "known"})
    runs = {}
    for run in args.run:
        name, folder = run.split("=", 1)
        runs[name] = pd.read_parquet(os.path.join(folder, "scores.parquet"))
    first = next(iter(runs.values())).merge(labels, on="tx_id")
    first = first.sort_values("event_time", kind="stable").reset_index(drop=True)
    start = first["event_time"].min().normalize()
    day = ((first["event_time"] - start) // DAY).to_numpy()
    measured = day >= args.from_day
    truth = first["is_fraud"].to_numpy().astype(np.int8)
    inputs = [c for c in first.columns if c not in ("tx_id", "event_time", "score", "model_version", "is_fraud", "known")]
    print(f"{measured.sum()} events of days {args.from_day} to {day.max()}, {truth[measured].sum()} frauds, {len(inputs)} inputs")

    results, scores = [], {}
    for name, run in runs.items():
        own = first[["tx_id"]].merge(run[["tx_id", "score"]], on="tx_id")["score"].to_numpy()
        missing = np.isnan(own[measured]).sum()
        assert missing == 0, f"{name}: {missing} of the measured events have no score"
        scores[name] = own[measured]
        with open(os.path.join(os.path.dirname(run_file(args.run, name)), "updates.jsonl")) as lines:
            updates = [json.loads(line) for line in lines]
        seconds = sum(update["seconds"] for update in updates)
        results.append(measure(name, truth[measured], scores[name], seconds, sum(u["version"] is not None for u in updates)))
        show(results[-1])

    X = first[inputs].to_numpy(dtype=np.float32)
    known = first["known"].to_numpy()
    for name in [p for p in args.retrain.split(",") if p]:
        every, history, parameters = PROTOCOLS[name]
        predicted, seconds, trainings = np.full(len(first), np.nan), 0.0, 0
        days = range(args.from_day, day.max() + 1, every or (day.max() + 1 - args.from_day))
        for today in days:
            now = np.datetime64(start) + today * DAY
            rows = known < now
            if history:
                rows &= day >= today - 7 - history
            model = xgboost.XGBClassifier(tree_method="hist", n_jobs=os.cpu_count(), **parameters)
            begun = time.monotonic()
            model.fit(X[rows], truth[rows])
            seconds += time.monotonic() - begun
            trainings += 1
            until = today + (every or day.max() + 1)
            ahead = (day >= today) & (day < until)
            predicted[ahead] = model.predict_proba(X[ahead])[:, 1]
        label = f"XGBoost {name}"
        scores[label] = predicted[measured]
        results.append(measure(label, truth[measured], scores[label], seconds, trainings))
        show(results[-1])

    if args.limit:
        predicted, seconds = np.full(len(first), np.nan), 0.0
        parts = day // LIMIT_DAYS % LIMIT_PARTS
        for part in range(LIMIT_PARTS):
            rows, ahead = parts != part, measured & (parts == part)
            model = xgboost.XGBClassifier(tree_method="hist", n_jobs=os.cpu_count(), **LIMIT)
            begun = time.monotonic()
            model.fit(X[rows], truth[rows])
            seconds += time.monotonic() - begun
            predicted[ahead] = model.predict_proba(X[ahead])[:, 1]
        limit = measure(KNOWS_THE_FUTURE, truth[measured], predicted[measured], seconds, LIMIT_PARTS)
        show(limit)
        results.append(limit)

    trees = [r for r in results if r["name"].startswith("XGBoost") and r["name"] != KNOWS_THE_FUTURE]
    best = max(trees, key=lambda r: r["average_precision"]) if trees else None
    comparisons = []
    for name in runs:
        for other in ([best["name"]] if best else []) + [n for n in runs if n != name]:
            interval = difference(truth[measured], scores[name], scores[other], args.samples)
            comparisons.append(dict(of=name, over=other, average_precision=interval))
            print(f"{name} over {other}: average precision {interval[1]:+.4f}, 95% interval {interval[0]:+.4f} to {interval[2]:+.4f}")
    with open(args.output, "w") as file:
        machine = dict(system=platform.platform(), cores=os.cpu_count(), xgboost=xgboost.__version__)
        json.dump(dict(machine=machine, events=int(measured.sum()), frauds=int(truth[measured].sum()), results=results, comparisons=comparisons), file, indent=1)
        file.write("\n")


def run_file(runs, name):
    folder = dict(run.split("=", 1) for run in runs)[name]
    return os.path.join(folder, "scores.parquet")


def measure(name, truth, score, seconds, trainings):
    order = np.argsort(score, kind="stable")
    groups = np.array_split(order, 20)
    calibration = np.mean([abs(score[g].mean() - truth[g].mean()) for g in groups])
    return dict(
        name=name,
        average_precision=float(average_precision_score(truth, score)),
        roc_auc=float(roc_auc_score(truth, score)),
        log_loss=float(log_loss(truth, np.clip(score, 1e-9, 1 - 1e-9))),
        calibration_error=float(calibration),
        mean_score=float(score.mean()),
        fraud_rate=float(truth.mean()),
        trainings=int(trainings),
        training_seconds=round(seconds, 1),
    )


def show(r):
    print(
        f"{r['name']:28} AP {r['average_precision']:.4f}  AUC {r['roc_auc']:.4f}  log loss {r['log_loss']:.5f}  "
        f"calibration error {r['calibration_error']:.5f}  {r['trainings']} trainings in {r['training_seconds']} s",
        flush=True,
    )


def difference(truth, ours, theirs, samples):
    """2.5%, mean and 97.5% of the difference of average precisions, over Poisson bootstrap samples of the events."""
    random = np.random.default_rng(1)
    orders = [np.argsort(-s, kind="stable") for s in (ours, theirs)]
    found = []
    for _ in range(samples):
        weight = random.poisson(1.0, len(truth)).astype(np.float64)
        found.append(precision(truth, weight, orders[0]) - precision(truth, weight, orders[1]))
    return [float(np.percentile(found, 2.5)), float(np.mean(found)), float(np.percentile(found, 97.5))]


def precision(truth, weight, order):
    w, t = weight[order], truth[order]
    rows, frauds = np.cumsum(w), np.cumsum(w * t)
    keep = (t == 1) & (w > 0)
    return float(np.sum(w[keep] * frauds[keep] / rows[keep]) / frauds[-1])


if __name__ == "__main__":
    main()
