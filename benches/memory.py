"""Memory of `millrace run` under load: events as fast as Kafka gives them, labels, updates of the model, and scores of
whole files over gRPC all the while. It needs a broker (`scripts/kafka.sh start`) and nothing but Python.

usage: python3 benches/memory.py MILLRACE [--brokers HOST:PORT] [--seconds N] [--customers N] [--output FILE]
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
EXAMPLE = HERE.parent / "examples" / "fraud"
EVERY = 5.0


def rss(pid: int) -> dict[str, int]:
    """Bytes of memory of a process: resident now, and at most so far."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return {name: int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM", "RssAnon")}


def metric(address: str, name: str) -> float:
    """The sum of a metric over its labels."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + " ", name + "{")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("millrace")
    parser.add_argument("--brokers", default="localhost:9092")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--customers", type=int, default=50_000)
    parser.add_argument("--days", type=int, default=100)
    parser.add_argument("--port", type=int, default=17077)
    parser.add_argument("--output", type=pathlib.Path, default=HERE / "results" / "memory.json")
    arguments = parser.parse_args()
    millrace = str(pathlib.Path(arguments.millrace).resolve())
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        project = folder / "fraud"
        shutil.copytree(EXAMPLE, project)
        metrics = f"127.0.0.1:{arguments.port + 1}"
        topics = {topic: f"{topic}-memory-{os.getpid()}" for topic in ("transactions", "labels", "scores")}
        sources = (project / "sources.sql").read_text()
        for topic in ("transactions", "labels"):
            sources = sources.replace(f"LOCATION '{topic}'", f"LOCATION '{topics[topic]}'")
        (project / "sources.sql").write_text(sources)
        (project / "millrace.toml").write_text(
            f'[kafka]\nbrokers = "{arguments.brokers}"\ngroup = "memory-{os.getpid()}"\n'
            f'[server]\nlisten = "127.0.0.1:{arguments.port}"\nmetrics = "{metrics}"\n'
            f'[model]\ninputs = "fraud_inputs"\nlabel = "labels.is_fraud"\nscores = "{topics["scores"]}"\n'
        )
        run = [millrace, "--project", str(project)]
        subprocess.run(
            [*run, "generate", "--output", str(folder / "events"), "--days", str(arguments.days),
             "--customers", str(arguments.customers), "--terminals", str(arguments.customers * 2)],
            check=True,
        )
        files = {topic: next((folder / "events").glob(f"{topic}.*")) for topic in ("transactions", "labels")}
        log = open(folder / "run.log", "wb")
        process = subprocess.Popen([*run, "run", "--create-topics"], stderr=log, stdout=log)
        others = []
        stop = threading.Event()
        calls = [0]
        failures = [0]

        def score() -> None:
            while not stop.is_set():
                at = newest(run)
                if at is None:
                    time.sleep(1)
                    continue
                sample(folder, at)
                done = subprocess.run([*run, "score", str(folder / "sample.jsonl")], capture_output=True)
                calls[0] += done.stdout.count(b"\n")
                failures[0] += done.returncode != 0

        thread = threading.Thread(target=score)
        try:
            time.sleep(5)
            for topic, file in files.items():
                others.append(subprocess.Popen([*run, "produce", topic, str(file)], stderr=subprocess.DEVNULL))
            thread.start()
            started = time.monotonic()
            rows = []
            while time.monotonic() - started < arguments.seconds:
                time.sleep(EVERY)
                if process.poll() is not None:
                    sys.exit(f"millrace run ended: {(folder / 'run.log').read_text()[-2000:]}")
                if any(other.poll() not in (None, 0) for other in others):
                    sys.exit(f"millrace produce failed: is there a broker at {arguments.brokers}?")
                at = time.monotonic() - started
                memory = rss(process.pid)
                events = metric(metrics, "millrace_events_total")
                disk = metric(metrics, "millrace_store_disk_bytes")
                rows.append({"seconds": round(at), "events": int(events), "scored_calls": calls[0],
                             "disk_bytes": int(disk), **memory})
                if len(rows) % 6 == 0:
                    print(f"{at:6.0f} s  {events:12,.0f} events  {calls[0]:9,} scores  "
                          f"{memory['VmRSS'] / 2**20:7.0f} MiB resident  {disk / 2**20:7.0f} MiB on disk", flush=True)
        finally:
            stop.set()
            for other in others:
                other.kill()
            # What is being scored is answered before the process is told to stop.
            if thread.ident is not None:
                thread.join()
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
            log.close()
    half = len(rows) // 2
    result = {
        "machine": {"cpus": os.cpu_count(), "kernel": os.uname().release},
        "seconds": arguments.seconds,
        "customers": arguments.customers,
        "events": rows[-1]["events"],
        "scores_over_grpc": rows[-1]["scored_calls"],
        "files_that_were_not_scored": failures[0],
        "resident_bytes_at_most": max(row["VmRSS"] for row in rows),
        "resident_bytes_at_most_in_the_first_half": max(row["VmRSS"] for row in rows[:half]),
        "resident_bytes_at_most_in_the_second_half": max(row["VmRSS"] for row in rows[half:]),
        "disk_bytes_at_the_end": rows[-1]["disk_bytes"],
        "samples": rows[:: max(1, len(rows) // 20)],
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "samples"}, indent=2))
    return 0


def newest(run: list[str]) -> str | None:
    """The newest event time that look-ups reflect; none before there is an event, or while nobody answers."""
    asked = subprocess.run([*run, "features", "get", "card_activity", "card_id=1"], capture_output=True)
    return json.loads(asked.stdout)["complete_until"] if asked.returncode == 0 else None


def sample(folder: pathlib.Path, at: str) -> None:
    """Payments of many cards, to be scored as of a time. It has to move on with the stream: as of a fixed one, what has
    expired would be missing soon, and nothing would be scored."""
    with open(folder / "sample.jsonl", "w", encoding="utf-8") as file:
        for number in range(20_000):
            file.write(json.dumps({
                "tx_id": f"sample-{number}", "card_id": str(number), "terminal_id": str(number * 2),
                "amount": 10.0 + number % 90, "event_time": at}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
