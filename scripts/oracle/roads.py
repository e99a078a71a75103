"""The two roads to Millrace's values: `millrace training-set`, and Kafka, `millrace run` and look-ups.

On the second, events come in pieces through a real Kafka while `millrace run` is killed and started again.
"""

import http.client
import json
import pathlib
import random
import socket
import subprocess
import time
from datetime import datetime

import duckdb

from oracle.events import SITE, STREAMS, iso, lines

KAFKA = pathlib.Path(__file__).parent.parent / "kafka.sh"
# Which events there are, in the order of time and ties.
ORDERS = "".join(f"""
CREATE VIEW {stream}_order AS SELECT site, array_agg(tx_id) OVER w AS ids FROM {stream} WINDOW w AS
  (PARTITION BY site ORDER BY event_time RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW);
""" for stream in STREAMS)
# How long events may take to the store, in seconds.
PATIENCE = 60
# After all events.
END = 2_000_000_000_000_000


class Differs(Exception):
    """What Millrace says is not what it should be."""


def write_project(folder, views, has_id, topics="", settings="", key="card"):
    names = f"'key' '{key}'" + (", 'id' 'tx_id'" if has_id else "")
    (folder / "features").mkdir(parents=True)
    (folder / "millrace.toml").write_text(settings)
    (folder / "sources.sql").write_text("".join(
        f"CREATE EXTERNAL TABLE {stream} ({', '.join(f'{name} {kind}' for name, kind in columns.items())})\n"
        f"  STORED AS KAFKA LOCATION '{stream}{topics}' WITH ORDER (event_time) OPTIONS ({names});\n"
        for stream, columns in STREAMS.items()))
    (folder / "features" / "views.sql").write_text(ORDERS + "\n".join(view.sql() for view in views))


def pieces(rnd, rows, most):
    """Some rows cut into at most so many pieces, at random places."""
    cuts = sorted(rnd.randint(0, len(rows)) for _ in range(rnd.randint(0, most - 1)))
    return [rows[start:end] for start, end in zip([0, *cuts], [*cuts, len(rows)]) if start < end]


def training_set(millrace, folder, rnd, views, has_id, delivered, spine):
    """The answers, by row and then by column, and the order of the events of each stream."""
    project = folder / "project"
    write_project(project, views, has_id)
    files = []
    for stream, rows in delivered.items():
        for number, piece in enumerate(pieces(rnd, rows, 3)):
            files.append(f"{stream}={folder / f'{stream}-{number}.jsonl'}")
            lines(folder / f"{stream}-{number}.jsonl", piece)
    lines(folder / "spine.jsonl", spine + [{"row": -1, "site": SITE, "event_time": END}])
    command = [millrace, "--project", project, "training-set", "--spine", folder / "spine.jsonl",
               "--output", folder / "out.parquet", "--events", *files]
    run(command)
    answers = duckdb.connect().execute(f"SELECT * FROM '{folder / 'out.parquet'}'")
    names = [column[0] for column in answers.description]
    rows = [dict(zip(names, row)) for row in answers.fetchall()]
    if [row["row"] for row in rows] != [*range(len(spine)), -1]:
        raise Differs("the rows are not those of the spine, in its order")
    last = rows.pop()
    return rows, {stream: last[f"{stream}_order__ids"] or [] for stream in STREAMS}


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Differs(f"millrace {command[3]} failed: {done.stderr}")


class Kafka:
    """A real Kafka for as long as it is held; `address` is none where none is wanted, or there is no Java."""

    def __init__(self, folder, is_wanted):
        self.folder, self.is_wanted, self.address = folder, is_wanted, None

    def __enter__(self):
        if not self.is_wanted:
            return self
        port = free_ports(2)
        started = subprocess.run([KAFKA, "start", self.folder, str(port)])
        if started.returncode not in (0, 3):
            raise SystemExit("Kafka did not start")
        self.address = None if started.returncode else f"127.0.0.1:{port}"
        return self

    def __exit__(self, *_):
        if self.address:
            subprocess.run([KAFKA, "kill", self.folder], check=True)


def free_ports(count):
    """The first of some ports that follow each other and are free."""
    while True:
        first = random.randint(25_000, 32_000)
        sockets = [socket.socket() for _ in range(count)]
        try:
            for number, one in enumerate(sockets):
                one.bind(("127.0.0.1", first + number))
            return first
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()


class Live:
    """The events of a round on their way through Kafka to `millrace run`, and look-ups after."""

    def __init__(self, millrace, folder, kafka, seed, views, has_id, deleted):
        self.rnd = rnd = random.Random(f"live {seed}")
        self.views = views
        # By stream, events that are deleted, and of them those that come again.
        self.deleted = deleted
        port = free_ports(2)
        self.address, self.project = f"127.0.0.1:{port}", folder / "live"
        write_project(self.project, views, has_id, key="tx_id" if deleted else "card", topics=f"-{seed}-{rnd.randint(0, 2**40)}", settings=f"""
            [kafka]
            brokers = "{kafka.address}"
            group = "oracle-{seed}-{port}"
            # A run that comes back after kill -9 gets its partitions at once.
            instance = "oracle"
            max_rows = {rnd.choice([1, 7, 100, 8192])}
            [topics]
            partitions = {rnd.choice([1, 2, 4])}
            [store]
            history = "4000d"
            flush_every = "{rnd.choice(['100ms', '1s', '10s'])}"
            [store.rocksdb]
            # With few, most entities are large: what look-ups read of them is kept in parts.
            entity_cache_rows = {rnd.choice([5, 1024])}
            [server]
            listen = "{self.address}"
            metrics = "127.0.0.1:{port + 1}"
            """)
        self.command = [millrace, "--project", self.project]
        self.log = open(self.project / "run.log", "a")
        self.server = None

    def start(self):
        self.server = self.spawn("run", "--roles", "ingest,serve", "--create-topics")

    def kill(self):
        if self.server:
            self.server.kill()
            self.server.wait()
            self.server = None

    def spawn(self, *arguments):
        return subprocess.Popen([*self.command, *arguments], stdout=self.log, stderr=self.log)

    def answers(self, delivered, spine):
        """Brings the events in, and asks: the answers, without those that are refused, and the order of the events."""
        newest = lambda rows: max((row["event_time"] for row in rows), default=0)
        self.newest = {stream: newest(rows) for stream, rows in delivered.items()}
        try:
            self.bring(delivered)
            orders = self.wait(delivered)
            if self.rnd.random() < 0.3:
                self.kill()
                self.start()
                orders = self.wait(delivered)
            return self.look_up(spine), orders
        finally:
            self.kill()
            self.log.close()

    def bring(self, delivered):
        rnd = self.rnd
        parts = [(stream, piece) for stream, rows in delivered.items() for piece in pieces(rnd, rows, 4)]
        # Pieces of a stream stay in their order, and the streams mix.
        order = [stream for stream, _ in parts]
        rnd.shuffle(order)
        queues = {stream: [piece for name, piece in parts if name == stream] for stream in delivered}
        from_files = self.pieces_from_files()
        for number, stream in enumerate(order):
            path = self.project / f"piece-{number}.jsonl"
            lines(path, queues[stream].pop(0))
            if number < from_files:
                run([*self.command, "backfill", "--events", f"{stream}={path}"])
            else:
                self.produce(stream, path)
        for stream, (gone, again) in self.deleted.items():
            for number, rows in enumerate(pieces(rnd, gone, 2)):
                lines(self.project / f"gone-{stream}-{number}.jsonl", rows)
                self.produce(stream, self.project / f"gone-{stream}-{number}.jsonl", "--delete")
            lines(self.project / f"again-{stream}.jsonl", again)
            self.produce(stream, self.project / f"again-{stream}.jsonl")
        if not self.server:
            self.start()

    def pieces_from_files(self):
        """How many pieces come from files, before all others."""
        # An event of the topic that is older than those of the files could be taken for one of them.
        if any(view.settles() for view in self.views):
            return 0
        return self.rnd.choice([0, self.rnd.randint(0, 3)])

    def produce(self, stream, path, *arguments):
        if not self.server:
            self.start()
        producing = self.spawn("produce", "--create", *arguments, stream, path)
        if self.rnd.random() < 0.5:
            time.sleep(self.rnd.uniform(0, 1))
            self.kill()
            self.start()
        if producing.wait():
            raise Differs(f"millrace produce failed: see {self.log.name}")

    def wait(self, delivered):
        """Until all events are in the store; then once more, as a correction brings no new event. Their order."""
        gone = {stream: {event["tx_id"] for event in rows} - {event["tx_id"] for event in again}
                for stream, (rows, again) in self.deleted.items()}
        ids = {stream: {event["tx_id"] for event in rows} - gone.get(stream, set()) for stream, rows in delivered.items()}
        before = None
        for _ in range(PATIENCE * 5):
            orders = self.orders()
            if orders and before == orders and all(set(orders[stream]) == ids[stream] for stream in ids):
                return orders
            before = orders
            time.sleep(0.2)
        missing = {stream: sorted(ids[stream] - set(orders[stream])) for stream in ids} if orders else "all"
        raise Differs(f"after {PATIENCE} s these events are not there: {missing}")

    def orders(self):
        views = [f"{stream}_order" for stream in STREAMS]
        try:
            code, answer = self.ask(views, ["site"], [{"site": SITE}], END)
        except (OSError, http.client.HTTPException):
            return None
        if code != 200:
            raise Differs(f"a look-up of the order: {code} {answer}")
        if any(view.get("status") == "VIEW_STATUS_BEHIND" for view in answer["views"]):
            return None
        texts = [column(view["features"][0], 1)[0] for view in answer["views"]]
        # A list comes as text.
        return {stream: text.strip("[]").split(", ") if text else [] for stream, text in zip(STREAMS, texts)}

    def look_up(self, spine):
        """Rows of one time in one call, of all views; view by view where one refuses. Null names no entity here."""
        rows = [{} for _ in spine]
        by_time = {}
        for number, row in enumerate(spine):
            if None not in row.values():
                by_time.setdefault(row["event_time"], []).append(number)
        for t, numbers in by_time.items():
            keys = [spine[number] for number in numbers]
            code, answer = self.ask_views(self.views, keys, t)
            parts = answer.get("views", [])
            if code != 200:
                alone = [self.ask_views([view], keys, t) for view in self.views]
                parts = [part for _, answer in alone for part in answer.get("views", [])]
                for view, (code, answer) in zip(self.views, alone):
                    self.check_refusal(view, t, code, answer)
            for part in parts:
                columns = {f["name"]: column(f, len(numbers)) for f in part["features"]}
                for place, number in enumerate(numbers):
                    for name, values in columns.items():
                        rows[number][f"{part['view']}__{name}"] = values[place]
        return rows

    def check_refusal(self, view, t, code, answer):
        """Only a time inside a step that may have been settled is refused."""
        is_settled = view.step and t % view.step and t < self.newest[view.stream] - view.late + view.step
        if code != 200 and not (is_settled and answer.get("code") == "out_of_range"):
            raise Differs(f"{view.name} as of {iso(t)}: {answer}")

    def ask_views(self, views, keys, t):
        entity = sorted({column for view in views for column in view.entity})
        return self.ask([view.name for view in views], entity, keys, t)

    def ask(self, views, entity, keys, t):
        columns = {name: {"strings": [str(key[name]) for key in keys]} for name in entity}
        request = {"features": views, "keys": columns, "asOf": iso(t) + "Z"}
        host, port = self.address.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        connection.request("POST", "/millrace.v1.FeatureService/GetFeatures", json.dumps(request),
                           {"content-type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        return response.status, answer


def column(message, rows):
    """The values of a Column message in JSON."""
    kinds = {"bools": bool, "int64s": int, "uint64s": int, "doubles": float, "strings": str, "timestamps": timestamp}
    kind = next((kind for kind in kinds if kind in message), None)
    values = [kinds[kind](value) for value in message[kind]] if kind else [None] * rows
    for row in message.get("nulls", []):
        values[row] = None
    return values


def timestamp(text):
    return datetime.fromisoformat(text.removesuffix("Z"))
