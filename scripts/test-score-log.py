"""The log of scores on S3, written by a program that is killed again and again, against what else is known of them.

Each payment must be in the log once, with what its message in the topic of scores says, and with its own place in
Kafka. Then the log is damaged on purpose, each time in another way, and the checks must see it.
"""

import io
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import boto3
import duckdb
import pyarrow.parquet
from confluent_kafka import Consumer, TopicPartition

PROGRAM, WORK, PORT = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
BUCKET, PREFIX, LOCATION = "risk-logs", "cards", "s3://risk-logs/cards"
PROJECT, PAYMENTS, COPY = WORK / "project", WORK / "payments", WORK / "copy"
KILLS = 4
SECONDS = 300

s3 = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])


def make_project() -> None:
    shutil.copytree("examples/fraud", PROJECT)
    file = PROJECT / "millrace.toml"
    # On a busy machine, too, no partition is left behind: its events would be late, and differ in the audit by right.
    text = file.read_text().replace('127.0.0.1:9092"', f'127.0.0.1:{PORT}"\npatience = "5m"')
    file.write_text(
        f'{text}decisions = {{ approve = 0.0, review = 0.05, decline = 0.5 }}\n\n[store]\nhistory = "60d"\n\n'
        f'[score_log]\nlocation = "{LOCATION}"\nevery = "1s"\nmax_rows = 5000\n\n'
        f'[server]\nlisten = "127.0.0.1:{PORT + 2}"\nmetrics = "127.0.0.1:{PORT + 3}"\n'
    )


def millrace(*arguments: object) -> subprocess.CompletedProcess:
    command = [PROGRAM, "--project", PROJECT, *arguments]
    return subprocess.run(command, capture_output=True, check=False, text=True, timeout=SECONDS)


def start() -> subprocess.Popen:
    log = (PROJECT / "run.log").open("ab")
    return subprocess.Popen([PROGRAM, "--project", PROJECT, "run", "--create-topics"], stdout=log, stderr=log)


def has_model() -> bool:
    return bool(json.loads(millrace("models", "list", "--json").stdout or "[]"))


def wait(until: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not until():
        if time.monotonic() > end:
            print((PROJECT / "run.log").read_text()[-4000:], file=sys.stderr)
            sys.exit(f"{what} did not come")
        time.sleep(0.05)


# ---- what S3 and Kafka hold


def keys() -> list[str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=PREFIX)
    return sorted(item["Key"] for page in pages for item in page.get("Contents", []))


def get(key: str) -> bytes:
    return s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()


def put(key: str, content: bytes) -> None:
    s3.put_object(Bucket=BUCKET, Key=key, Body=content)


def complete_to() -> int:
    marker = f"{PREFIX}/_millrace.json"
    return json.loads(get(marker))["complete_to"] if marker in keys() else 0


def topic(name: str) -> Path:
    """A topic's messages, as JSON lines with their place."""
    consumer = Consumer({"bootstrap.servers": f"127.0.0.1:{PORT}", "group.id": "checks", "enable.partition.eof": True})
    left = set(consumer.list_topics(name, 60).topics[name].partitions)
    consumer.assign([TopicPartition(name, partition, 0) for partition in left])
    file = WORK / f"{name}.jsonl"
    with file.open("w") as lines:
        while left:
            message = consumer.poll(60)
            assert message is not None, f"{name} does not answer"
            if message.error() is not None:
                left.remove(message.partition())
                continue
            place = {"partition": message.partition(), "place": message.offset()}
            lines.write(json.dumps(json.loads(message.value()) | place) + "\n")
    consumer.close()
    return file


# ---- the checks


def checks(inputs: list[str]) -> dict[str, str]:
    """By what it finds, SQL that counts it. The last message of an event is the one whose step was committed."""
    differs = [f"log.fraud_inputs__{name}::FLOAT IS DISTINCT FROM topic.inputs.{name}::FLOAT" for name in inputs]
    return {
        "payments that are missing": "SELECT count(*) FROM payments ANTI JOIN log USING (tx_id)",
        "rows of no payment": "SELECT count(*) FROM log ANTI JOIN payments USING (tx_id)",
        "rows that are there twice": "SELECT count(*) - count(DISTINCT tx_id) FROM log",
        "numbers that are missing or twice": """
            SELECT abs(max(sequence) + 1 - count(*)) + count(*) - count(DISTINCT sequence) FROM log""",
        "rows that are not their payment": """SELECT count(*) FROM log JOIN payments AS of USING (tx_id) WHERE
            (log.card_id, log.terminal_id, log.event_time::TIMESTAMP, log.fraud_inputs__amount)
            IS DISTINCT FROM (of.card_id, of.terminal_id, of.event_time::TIMESTAMP, of.amount)""",
        "rows of another day's folder": "SELECT count(*) FROM log WHERE dt <> event_time::TIMESTAMP::DATE",
        "rows with another message's place": """SELECT count(*) FROM log JOIN sent USING (tx_id)
            WHERE (kafka_partition, kafka_offset) IS DISTINCT FROM (sent.partition, sent.place)""",
        "rows that the topic of scores lacks": "SELECT count(*) FROM log ANTI JOIN topic USING (tx_id)",
        "rows with another score than in the topic": """SELECT count(*) FROM log JOIN topic USING (tx_id) WHERE
            (log.score::FLOAT, log.model_version, log.decision)
            IS DISTINCT FROM (topic.score::FLOAT, topic.model_version, topic.decision)""",
        "rows with other inputs than in the topic": f"""
            SELECT count(*) FROM log JOIN topic USING (tx_id) WHERE {" OR ".join(differs)}""",
    }


def found(data: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """What is wrong with the log that S3 holds now."""
    shutil.rmtree(COPY, ignore_errors=True)
    for key in keys():
        file = COPY / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(get(key))
    files = f"{COPY}/{PREFIX}/*/*.parquet"
    data.execute(f"CREATE OR REPLACE TABLE log AS FROM read_parquet('{files}', hive_partitioning = true)")
    inputs = list(data.execute("SELECT inputs FROM topic LIMIT 1").fetchone()[0])
    counts = {what: data.execute(sql).fetchone()[0] for what, sql in checks(inputs).items()}
    return {what: count for what, count in counts.items() if count}


def audit() -> tuple[int, dict]:
    events = [f"{stream}={PAYMENTS / stream}.parquet" for stream in ("transactions", "labels")]
    done = millrace("audit", "--json", "--scores", LOCATION, "--events", *events)
    return done.returncode, json.loads(done.stdout or "{}").get("log", {"error": done.stderr})


def changed(content: bytes, column: str) -> bytes:
    """A file whose first row has another value there."""
    file = pyarrow.parquet.ParquetFile(io.BytesIO(content))
    # All that the file says of itself, but for Arrow's own schema, which is made anew.
    said = {key: value for key, value in file.metadata.metadata.items() if key != b"ARROW:schema"}
    table = file.read().replace_schema_metadata(said)
    values = table[column].to_pylist()
    values[0] = (values[0] or 0.0) + 0.001
    new = pyarrow.array(values, table[column].type)
    out = io.BytesIO()
    pyarrow.parquet.write_table(table.set_column(table.schema.get_field_index(column), column, new), out)
    return out.getvalue()


def damages(data: duckdb.DuckDBPyConnection) -> None:
    """Each must be seen by the checks, and by the audit: but for a score, which it does not compute again."""
    files = [key for key in keys() if key.endswith(".parquet")]
    key = random.choice(files)
    content = get(key)

    def is_seen(how: str, audited: str | None) -> None:
        wrong, (code, log) = found(data), audit()
        print(f"{how}: {wrong}; audit: {log}")
        assert wrong and (audited is None or code == 1 and log.get(audited)), how

    s3.delete_object(Bucket=BUCKET, Key=key)
    is_seen("a file less", "missing")
    put(key, content)
    put(key.replace("scores-", "scores-again-"), content)
    is_seen("a file twice", "twice")
    s3.delete_object(Bucket=BUCKET, Key=key.replace("scores-", "scores-again-"))
    other = random.choice([other for other in files if other.split("/")[1] != key.split("/")[1]])
    put(key, get(other))
    is_seen("a file in another's place", "missing")
    put(key, changed(content, "score"))
    is_seen("another score", None)
    put(key, changed(content, "fraud_inputs__amount"))
    is_seen("another input", "mismatched")
    put(key, content)
    assert not (wrong := found(data)), wrong


def main() -> None:
    seed = int(os.environ.get("SEED", time.time()))
    print(f"SEED={seed}")
    random.seed(seed)
    s3.create_bucket(Bucket=BUCKET)
    make_project()
    print(millrace("generate", "--days", "20", "--output", PAYMENTS).stderr.strip())
    data = duckdb.connect()
    data.execute(f"CREATE TABLE payments AS FROM '{PAYMENTS}/transactions.parquet'")
    rows = data.execute("SELECT count(*) FROM payments").fetchone()[0]
    print(millrace("produce", "--create", "labels", PAYMENTS / "labels.parquet").stderr.strip())

    # Two weeks until there is a model, and then what it scores.
    early = "event_time < (SELECT min(event_time) FROM payments) + INTERVAL 14 DAYS"
    for part, which in (("first", early), ("then", f"NOT ({early})")):
        file = PAYMENTS / f"{part}.parquet"
        data.execute(f"COPY (FROM payments WHERE {which} ORDER BY event_time) TO '{file}'")
        print(millrace("produce", "--create", "transactions", file).stderr.strip())
        sent = data.execute(f"SELECT count(*) FROM payments WHERE {early} OR {part == 'then'}").fetchone()[0]
        before = complete_to()
        for kill in range(KILLS // 2):
            run = start()
            at = before + (sent - before) * (kill + random.random()) / (KILLS // 2 + 1)
            wait(lambda at=at: complete_to() >= at, "the log's growth")
            time.sleep(random.random())
            run.kill()
            run.wait()
            print(f"killed with {complete_to()} of {rows} rows in the log", flush=True)
        run = start()
        wait(lambda sent=sent: complete_to() >= sent, "the log's end")
        wait(has_model, "a first model")
        run.terminate()
        assert run.wait(SECONDS) == 0

    data.execute(f"CREATE TABLE sent AS FROM read_json('{topic('transactions')}')")
    scores = topic("scores")
    data.execute(f"""CREATE TABLE topic AS FROM read_json('{scores}', sample_size = -1)
        QUALIFY row_number() OVER (PARTITION BY tx_id ORDER BY place DESC) = 1""")
    messages = data.execute(f"SELECT count(*) FROM read_json('{scores}', sample_size = -1)").fetchone()[0]
    wrong, (code, log) = found(data), audit()
    versions = data.execute("SELECT count(DISTINCT model_version) FROM log").fetchone()[0]
    assert versions, "no payment was scored"
    print(f"{len(keys()) - 1} files, {rows} payments, {messages} messages in the topic of scores, {versions} versions")
    print(f"wrong: {wrong}; audit: {log}")
    said = (PROJECT / "run.log").read_text()
    print(f"{said.count('the others go on without it')} times a partition was left behind")
    assert not wrong and code == 0, "the log is not what it is to be"
    damages(data)
    print("the log is as it should be, and damage is seen")


main()
