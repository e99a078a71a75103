"""The program on a Kafka with TLS, passwords, clients' certificates and access rights.

What Kafka holds is asked through the listener without security. Every mistake is told, and not the first alone.
"""

import atexit
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

PROGRAM, WORK, PORT = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
OPEN, PASSWORDS, CERTIFICATES, LISTEN, METRICS, CLEAR = (f"127.0.0.1:{PORT + step}" for step in (0, 2, 3, 4, 5, 6))
SCRAM_PASSWORD, PLAIN_PASSWORD, KEY_PASSWORD = (
    os.environ[name] for name in ("SCRAM_PASSWORD", "PLAIN_PASSWORD", "KEY_PASSWORD")
)
AUTHORITY = {"ssl.ca.location": WORK / "authority.pem"}
MILLRACE = AUTHORITY | {
    "security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "millrace",
    "sasl.password": SCRAM_PASSWORD,
}
SHOP = MILLRACE | {"sasl.mechanism": "PLAIN", "sasl.username": "shop", "sasl.password": PLAIN_PASSWORD}
BANK = AUTHORITY | {
    "security.protocol": "SSL", "ssl.certificate.location": WORK / "bank.pem",
    "ssl.key.location": WORK / "bank.locked.key", "ssl.key.password": KEY_PASSWORD,
}
PAYMENTS = WORK / "payments"
# The slowest machine that a test may run on, and nobody's patience.
SECONDS = 60
SOON = 20

# A broker that restarts is no news here.
client = {"bootstrap.servers": OPEN, "log_level": 0}
admin = AdminClient(client)
mistakes: list[str] = []


def expect(holds: bool, what: str) -> None:
    print(f"{'ok' if holds else 'WRONG'}: {what}", flush=True)
    if not holds:
        mistakes.append(what)


# ---- Kafka's side


def set_password(password: str) -> None:
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    change = UserScramCredentialUpsertion("millrace", info, password.encode())
    for done in admin.alter_user_scram_credentials([change]).values():
        done.result()


def right(user: str, operation: AclOperation, topic: str) -> tuple:
    return (ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, f"User:{user}", "*", operation,
            AclPermissionType.ALLOW)


def grant(*rights: tuple) -> None:
    for done in admin.create_acls([AclBinding(*of) for of in rights]).values():
        done.result()


def withdraw(*rights: tuple) -> None:
    for done in admin.delete_acls([AclBindingFilter(*of) for of in rights]).values():
        done.result()


def grant_what_is_needed() -> None:
    """What docs/settings.md says that Millrace needs, and no more."""
    streams = ["transactions", "labels"]
    made = [*streams, "scores", *(f"{stream}.dead-letters" for stream in streams)]
    grant(
        *(right("millrace", AclOperation.CREATE, topic) for topic in made),
        *(right("millrace", AclOperation.READ, topic) for topic in streams),
        *(right("millrace", AclOperation.WRITE, topic) for topic in made if topic not in streams),
        (ResourceType.GROUP, "millrace", ResourcePatternType.PREFIXED, "User:millrace", "*", AclOperation.READ,
         AclPermissionType.ALLOW),
        right("shop", AclOperation.WRITE, "transactions"),
        right("CN=bank", AclOperation.WRITE, "labels"),
    )


def messages(topic: str) -> list[bytes]:
    """All that a topic holds."""
    consumer = Consumer(client | {"group.id": "checks", "enable.partition.eof": True})
    found, left = [], list(consumer.list_topics(topic, SECONDS).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, partition, 0) for partition in left])
    while left:
        message = consumer.poll(SECONDS)
        assert message is not None, f"{topic} does not answer"
        if message.error() is None:
            found.append(message.value())
        else:
            left.remove(message.partition())
    consumer.close()
    return found


# ---- the program's side


def project(name: str, properties: dict, brokers: str = PASSWORDS) -> Path:
    """A project of its own, which goes to `brokers` with `properties`."""
    folder = WORK / "projects" / name
    shutil.copytree("examples/fraud", folder)
    file = folder / "millrace.toml"
    text = file.read_text().replace("127.0.0.1:9092", brokers)
    security = "\n".join(f'"{key}" = "{value}"' for key, value in properties.items())
    file.write_text(
        f'{text}min_labels = 50\nmin_frauds = 1\n\n[kafka.properties]\n{security}\n\n[score_log]\n'
        f'location = "data/scores"\n\n[server]\nlisten = "{LISTEN}"\nmetrics = "{METRICS}"\n'
    )
    return folder


def keep(text: str) -> str:
    """Keeps what the program said, to be searched for passwords."""
    with (WORK / "said").open("a") as said:
        said.write(text)
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def millrace(folder: Path, *arguments: object) -> tuple[int, str]:
    """Runs the program to its end: its exit code, and what it said."""
    command = [PROGRAM, "--project", folder, *arguments]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=SECONDS)
    return done.returncode, keep(done.stdout + done.stderr)


class Run:
    """`millrace run`, while it is up."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.log = folder / "run.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([PROGRAM, "--project", folder, "run", *arguments], stdout=log, stderr=log)
        atexit.register(self.process.kill)
        wait(lambda: "ready" in self.said(), "the program is ready")

    def said(self) -> str:
        return self.log.read_text()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        wait(lambda: self.process.poll() is not None, "it stops when it is asked to")
        self.process.kill()
        expect(self.process.wait() == 0, "in order")
        keep(self.said())


def ask(address: str, path: str, body: dict | None = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{address}/{path}", data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return keep(answer.read().decode())


def metric(name: str) -> float:
    values = [float(line.split()[-1]) for line in ask(METRICS, "metrics").splitlines() if line.startswith(name)]
    return sum(values)


def view(card: str, as_of: str) -> dict:
    body = {"features": ["card_activity:tx_count_30d"], "keys": {"card_id": {"strings": [card]}}, "asOf": as_of}
    return json.loads(ask(LISTEN, "millrace.v1.FeatureService/GetFeatures", body))["views"][0]


def wait(until: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Waits for what is to come; that it did not is told."""
    end = time.monotonic() + seconds
    while not (holds := until()) and time.monotonic() < end:
        time.sleep(0.2)
    expect(holds, what)


# ---- what is checked


def works() -> Path:
    """Events in, features and scores out, with a password and a client's certificate."""
    folder = project("millrace", MILLRACE)
    run = Run(folder, "--create-topics")
    senders = [("shop", SHOP, PASSWORDS, "transactions"), ("bank", BANK, CERTIFICATES, "labels")]
    for who, properties, brokers, topic in senders:
        code, said = millrace(project(who, properties, brokers), "produce", topic, PAYMENTS / f"{topic}.parquet")
        expect(code == 0, f"{who} sends {topic}: {said.strip()}")
    payments = pyarrow.parquet.read_table(PAYMENTS / "transactions.parquet").to_pylist()
    sent = len(payments)
    wait(lambda: metric("millrace_events_total") == 2 * sent, f"{2 * sent} events are read")
    card = payments[0]["card_id"]
    told, counted = view(card, "2018-04-30T00:00:00Z"), sum(payment["card_id"] == card for payment in payments)
    expect(told["features"][0]["int64s"] == [str(counted)], f"card {card} has {counted} payments: {told}")
    expect(sent == len({json.loads(score)["tx_id"] for score in messages("scores")}), f"{sent} events have scores")

    producer = Producer(client)
    producer.produce("transactions", b"no event")
    producer.flush()
    wait(lambda: metric("millrace_dead_letters_total") == 1, "a dead letter is counted")
    expect(messages("transactions.dead-letters") == [b"no event"], "and stands in its topic")
    run.stop()
    logged = pyarrow.parquet.read_table(folder / "data/scores").num_rows
    expect(logged == sent, f"{logged} scores are in the log")
    return folder


def reads_again(folder: Path) -> None:
    """A view that is new gets the events that came before it, through a client of its own."""
    (folder / "features/habit.sql").write_text("""
        CREATE VIEW habit AS SELECT card_id, terminal_id, count(*) OVER days AS tx_count FROM transactions
        WINDOW days AS (PARTITION BY card_id, terminal_id ORDER BY event_time
                        RANGE BETWEEN INTERVAL '3 days' PRECEDING AND CURRENT ROW);
    """)
    run = Run(folder)
    wait(lambda: "the views have caught up" in run.said(), "a new view catches up")
    run.stop()


def recovers(folder: Path) -> None:
    """What was right becomes wrong while the program runs: it says so, says it again, and goes on when it may."""
    run = Run(folder)
    set_password("another")
    subprocess.run(["scripts/kafka.sh", "restart", WORK / "kafka"], check=True)
    refusal = "Authentication failed"
    wait(lambda: refusal in run.said(), "a password that is no longer right is told of")
    time.sleep(SOON)
    heard = run.said().count(refusal)
    wait(lambda: run.said().count(refusal) > heard, "and told of again")
    set_password(SCRAM_PASSWORD)
    shop, payments = WORK / "projects/shop", PAYMENTS / "transactions.parquet"
    sent = pyarrow.parquet.read_metadata(payments).num_rows
    expect(millrace(shop, "produce", "transactions", payments)[0] == 0, "the shop sends while the program is out")
    wait(lambda: metric("millrace_events_total") == sent, f"all {sent} are read when the password is right again")

    writes = right("millrace", AclOperation.WRITE, "scores")
    withdraw(writes)
    millrace(shop, "produce", "transactions", payments)
    wait(lambda: "'scores' cannot be sent" in run.said(), "scores that may not be written are told of")
    expect(metric("millrace_consumer_lag") > 0, "events that wait for that are lag")
    expect(view("1", "2018-04-30T00:00:00Z")["status"] == "VIEW_STATUS_BEHIND", "and a view says that it is behind")
    grant(writes)
    wait(lambda: metric("millrace_events_total") == 2 * sent, "all is read when they may")
    run.stop()


def hindered(folder: Path, *arguments: str) -> str:
    """The line in which a program that goes on without Kafka says within seconds why; then it is stopped."""
    log = folder / "hindered.log"
    with log.open("wb") as out:
        process = subprocess.Popen([PROGRAM, "--project", folder, *arguments], stdout=out, stderr=out)
    atexit.register(process.kill)
    text = "no events are read yet"
    end = time.monotonic() + SOON
    while text not in log.read_text() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    expect(process.poll() is None, f"{' '.join(arguments)}: it goes on without Kafka")
    process.terminate()
    expect(process.wait(SECONDS) == 0, f"{' '.join(arguments)}: it stops when it is asked to")
    return next((line for line in keep(log.read_text()).splitlines() if text in line), "")


def refused() -> None:
    """Who is not let in is told so within seconds: where, why, and which setting it is."""
    stranger = {"ssl.ca.location": WORK / "stranger.pem"}
    typo = {"sasl.password": SCRAM_PASSWORD[::-1]}
    wrong = {
        "wrong-password": (MILLRACE | typo, "Authentication failed", "sasl.password"),
        "unknown-user": (MILLRACE | {"sasl.username": "nobody"}, "Authentication failed", "sasl.username"),
        "unknown-authority": (MILLRACE | stranger, "certificate verify failed", "ssl.ca.location"),
        "no-security": ({}, "security.protocol", "security.protocol"),
    }
    produce = ("transactions", PAYMENTS / "transactions.parquet")
    commands = [("produce", *produce), ("produce", "--create", *produce)]
    for name, (properties, why, setting) in wrong.items():
        folder = project(name, properties)
        for command in [("run",), ("run", "--create-topics")]:
            said = hindered(folder, *command)
            expect(all(text in said for text in (PASSWORDS, why, setting)), f"{name}: {' '.join(command)}: {said}")
        for command in commands:
            start = time.monotonic()
            code, said = millrace(folder, *command)
            took = time.monotonic() - start
            error = said[said.rfind("\nerror: ") + 1 :].strip()
            expect(
                code == 1 and took < SOON and all(text in error for text in (PASSWORDS, why, setting)),
                f"{name}: {' '.join(map(str, command[:2]))}: {took:.0f} s, {error}",
            )
    for name, properties, setting in [
        ("no-authority", MILLRACE | {"ssl.ca.location": WORK / "missing.pem"}, "ssl.ca.location"),
        ("wrong-key-password", BANK | {"ssl.key.password": "no"}, "ssl.key.location"),
        ("no-certificate", AUTHORITY | {"security.protocol": "SSL"}, "ssl.certificate.location"),
    ]:
        code, said = millrace(project(name, properties, CERTIFICATES), "produce", *produce)
        expect(code != 0 and setting in said, f"{name}: {said.strip()}")
    code, said = millrace(WORK / "projects/shop", "produce", "labels", PAYMENTS / "labels.parquet")
    expect(code != 0 and "labels" in said and PASSWORDS in said, f"no right to write: {said.strip()}")
    # A password without quotes is a number to TOML.
    folder = project("number", MILLRACE | {"sasl.password": "PASSWORD"})
    settings = folder / "millrace.toml"
    settings.write_text(settings.read_text().replace('"PASSWORD"', "4815162342"))
    code, said = millrace(folder, "check")
    expect(code == 2 and "4815162342" not in said, f"a number for a password: {said.strip()}")


def in_the_clear() -> None:
    """A password over a connection that is not encrypted, and what keeps the program from getting that far."""
    shop = SHOP | {"security.protocol": "SASL_PLAINTEXT"}
    produce = ("produce", "transactions", PAYMENTS / "transactions.parquet")
    code, said = millrace(project("clear", shop, CLEAR), *produce)
    expect(code == 0, f"a password without encryption: {said.strip()}")
    typo = {"sasl.password": PLAIN_PASSWORD[::-1]}
    for name, properties, why, setting in [
        ("clear-wrong-password", shop | typo, "Authentication failed", "sasl.password"),
        ("clear-mechanism", shop | {"sasl.mechanism": "SCRAM-SHA-512"}, "mechanisms: PLAIN", "hint: sasl.mechanism"),
        ("clear-no-password", {}, "no Kafka broker", "or asks for a password, wants security.protocol"),
    ]:
        code, said = millrace(project(name, properties, CLEAR), *produce)
        holds = code == 1 and all(text in said for text in (CLEAR, why, setting))
        expect(holds, f"{name}: {said.strip()}")


def nothing_leaks(folder: Path) -> None:
    """With librdkafka at its most talkative, too."""
    settings = folder / "millrace.toml"
    settings.write_text(settings.read_text().replace("[kafka.properties]", '[kafka.properties]\n"debug" = "all"'))
    os.environ["RUST_LOG"] = "trace"
    run = Run(folder)
    time.sleep(5)
    ask(METRICS, "metrics")
    view("1", "2018-04-30T00:00:00Z")
    run.stop()
    expect("sasl.password = [redacted]" in run.said(), "librdkafka was talkative")
    secrets = [SCRAM_PASSWORD, PLAIN_PASSWORD, KEY_PASSWORD, (WORK / "bank.key").read_text().splitlines()[1]]
    searched = [WORK / "said", *(file for file in folder.rglob("*") if file.is_file())]
    found = [file for file in searched if any(secret.encode() in file.read_bytes() for secret in secrets)]
    size = searched[0].stat().st_size
    expect(found == [settings], f"of {size} bytes of output and {len(searched) - 1} files, passwords are in {found}")


def main() -> None:
    set_password(SCRAM_PASSWORD)
    grant_what_is_needed()
    subprocess.run([PROGRAM, "generate", "--days", "3", "--output", PAYMENTS], check=True)
    folder = works()
    reads_again(folder)
    recovers(folder)
    refused()
    in_the_clear()
    nothing_leaks(folder)
    print(f"{len(mistakes)} mistakes")
    for mistake in mistakes:
        print(f"  {mistake}")
    sys.exit(bool(mistakes))


main()
