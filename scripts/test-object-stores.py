"""The program, with its registry of models on S3 and MLflow told of it, on the store that a demo has filled.

Everything that the program says is held against what S3 and MLflow say through their own clients.
"""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import mlflow

PROGRAM, PROJECT, TRACKING = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
BUCKET, PREFIX = "models", "team/fraud"


def millrace(*arguments: str, fails: bool = False) -> str:
    """Runs the program on the project; its output, or its errors where it is to fail."""
    command = [PROGRAM, "--project", str(PROJECT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode != 0) == fails, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stderr if fails else done.stdout


def configure(registry: str) -> None:
    """Points the project at a registry, and lets its first model do with few labels."""
    file = PROJECT / "millrace.toml"
    text = file.read_text()
    text = re.sub(r"(?m)^(registry|every|min_labels|min_frauds) *=.*\n", "", text)
    settings = f'[model]\nregistry = "{registry}"\nevery = "144h"\nmin_labels = 50\nmin_frauds = 1\n'
    text = re.sub(r"(?m)^\[model\]\n", settings, text)
    # Long periods of a young model look unusual to it: what is tried here is not whether labels are believed.
    text += "\n[learner.gate]\nmax_fraud_ratio = 1e6\nunusual_periods = 1\n"
    file.write_text(f'{text}\n[model.mlflow]\ntracking_uri = "{TRACKING}"\nregistered_model = "fraud"\n')


def listed() -> list[dict]:
    return json.loads(millrace("models", "list", "--json"))


def champion() -> int:
    return next(version["version"] for version in listed() if version["champion"])


def main() -> None:
    s3 = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    configure(f"s3://{BUCKET}/{PREFIX}")
    error = millrace("models", "list", fails=True)
    assert "The bucket must be there" in error, error
    s3.create_bucket(Bucket=BUCKET)
    assert "no model yet in s3://models/team/fraud" in millrace("models", "list")

    # Each goes on from what the one before has left in the bucket.
    for _ in range(5):
        print(millrace("learn", "--once").strip())
    versions = [version["version"] for version in listed()]
    assert len(versions) >= 3, versions
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=PREFIX)
    keys = {item["Key"] for page in pages for item in page.get("Contents", [])}
    for version in versions:
        for name in ["encoder.json", "weights.safetensors", "optimizer.safetensors", "manifest.json"]:
            assert f"{PREFIX}/v{version:06}/{name}" in keys, (version, name)
    assert f"{PREFIX}/log/000000000.json" in keys

    first, second = versions[0], versions[1]
    millrace("models", "promote", str(second))
    assert champion() == second
    millrace("models", "promote", str(first))
    assert f"version {second} serves again" in millrace("models", "rollback")
    error = millrace("models", "promote", "999", fails=True)
    assert "999" in error and "are kept" in error, error

    # Many people at once, each in a process of its own: every one of their choices is kept, in one order.
    before = life(second)
    with ThreadPoolExecutor(8) as people:
        shares = list(range(1, 17))
        other = versions[2]
        list(people.map(lambda share: millrace("models", "traffic", str(other), str(share)), shares))
    shown = json.loads(millrace("models", "show", str(other)))
    kept = [step["state"]["canary"]["percent"] for step in shown["life"] if "canary" in step["state"]]
    assert sorted(kept[-16:]) == shares, kept
    assert shown["traffic_percent"] == kept[-1], shown
    assert life(second) == before

    # What no process has told MLflow yet, the next one that learns does.
    print(millrace("learn", "--once").strip())
    client = mlflow.MlflowClient(TRACKING)
    experiment = client.get_experiment_by_name("millrace")
    runs = {int(run.data.tags["millrace.version"]): run for run in client.search_runs([experiment.experiment_id])}
    for version in listed():
        run, shown = runs[version["version"]], json.loads(millrace("models", "show", str(version["version"])))
        manifest = shown["manifest"]
        assert run.info.status == "FINISHED", run.info
        assert run.data.metrics["after.log_loss"] == manifest["after"]["log_loss"]
        assert run.data.params["seed"] == str(manifest["seed"])
        assert run.data.params["parent"] == str(manifest["parent"] or "none")
        assert run.data.params["training.learning_rate"] == str(manifest["settings"]["learning_rate"])
        assert json.loads(run.data.tags["millrace.offsets"]) == manifest["offsets"] != {}
        assert run.data.tags["millrace.state"] == version["state"], (version, run.data.tags)
    told = client.get_model_version_by_alias("fraud", "champion")
    assert told.tags["millrace.version"] == str(champion()), told
    assert told.source == f"s3://{BUCKET}/{PREFIX}/v{champion():06}", told
    told = client.search_model_versions("name='fraud'")
    assert len({version.run_id for version in told}) == len(told), "a version was told twice"

    # A registry that is begun anew has runs of its own, though its versions have the same numbers.
    text = (PROJECT / "millrace.toml").read_text()
    (PROJECT / "millrace.toml").write_text(text.replace(f"{BUCKET}/{PREFIX}", f"{BUCKET}/{PREFIX}-anew"))
    print(millrace("learn", "--once").strip())
    anew = champion()
    (PROJECT / "millrace.toml").write_text(text)
    of_both = client.search_runs([experiment.experiment_id], f"tags.`millrace.version` = '{anew}'")
    registries = {run.data.tags["millrace.registry"] for run in of_both}
    assert anew in runs and len(of_both) == len(registries) == 2, (anew, of_both)
    assert all(run.info.status == "FINISHED" and "seed" in run.data.params for run in of_both), of_both
    source = client.get_model_version_by_alias("fraud", "champion").source
    assert source == f"s3://{BUCKET}/{PREFIX}-anew/v{anew:06}", source

    # MLflow that is away holds up nothing.
    text = (PROJECT / "millrace.toml").read_text()
    (PROJECT / "millrace.toml").write_text(text.replace(TRACKING, "http://127.0.0.1:9"))
    print(millrace("learn", "--once").strip())
    (PROJECT / "millrace.toml").write_text(text.replace("s3://", "s4://"))
    error = millrace("models", "list", fails=True)
    assert "did you mean s3://?" in error, error
    print(f"{len(versions)} versions on S3, {len(runs)} runs and {len(told)} model versions in MLflow: as they should be")


def life(version: int) -> list:
    return json.loads(millrace("models", "show", str(version)))["life"]


main()
