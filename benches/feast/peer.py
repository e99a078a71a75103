#!/usr/bin/env python3
"""Feast with Redis on this machine, for benchmarks to be compared with.

    peer.py install                       bring Feast, Redis and their libraries to the cache (done once)
    peer.py serve [--cards N] [--address HOST:PORT] [--http HOST:PORT] [--processes N] [--threads N]

`serve` starts Redis, registers definitions.py, writes the cards, starts Feast's gRPC server (`feast listen`) and on
demand its HTTP server (`feast serve`), asks for a card until the answer is right, and prints one line of JSON:

    {"grpc": "127.0.0.1:41234", "http": null, "features": ["card_activity:tx_count_1h", ...], "cards": 10000, ...}

The cards' ids are "0" to "9999".

It stops all of them on SIGTERM, on Ctrl-C, or when one of them ends. Their logs go to standard error.

Nothing is installed on the system: packages from PyPI go to a virtual environment, Debian's to a folder, both under
${XDG_CACHE_HOME:-~/.cache}/millrace/feast. Running needs no network, and Feast 0.67 reports to nobody.
A redis-server on the PATH takes the place of Debian's; Debian's needs apt-get and dpkg-deb, but no root.
"""

import argparse
import ctypes
import ipaddress
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

PACKAGES = ["feast[redis,grpcio]==0.67.*"]
DEBIAN = ["redis-server", "redis-tools", "libatomic1", "libjemalloc2", "liblzf1"]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "millrace" / "feast"
VENV = CACHE / "venv"
REDIS = CACHE / "redis"
BATCH = 2_000
START_SECONDS = 120

# The registry is read once: a cache without an end, and servers that look again in a day. Feast's defaults read it
# again every five seconds while requests wait.
SETTINGS = """project: fraud
provider: local
registry: {{path: {folder}/registry.db, cache_ttl_seconds: 0}}
online_store: {{type: redis, connection_string: "{redis}"}}
offline_store: {{type: file}}
entity_key_serialization_version: 3
"""
REGISTRY_TTL = "86400"


def main():
    args = arguments()
    install()
    if args.command == "serve":
        enter_venv()
        with tempfile.TemporaryDirectory(prefix="millrace-feast-") as folder, Processes() as processes:
            print(json.dumps(serve(args, pathlib.Path(folder), processes)), flush=True)
            processes.wait()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install")
    serve = commands.add_parser("serve")
    serve.add_argument("--cards", type=int, default=10_000)
    serve.add_argument("--address", type=address, default=("127.0.0.1", 0), help="port 0: a free one")
    serve.add_argument("--http", type=address, help="start the HTTP server too")
    serve.add_argument("--processes", type=int, default=os.cpu_count(), help="of each server")
    serve.add_argument("--threads", type=int, default=4, help="of each process of the gRPC server")
    return parser.parse_args()


def address(text):
    host, _, port = text.rpartition(":")
    if not ipaddress.ip_address(host).is_loopback:
        raise argparse.ArgumentTypeError(f"{text}: a loopback address and a port are needed, such as 127.0.0.1:6566")
    return host, int(port)


# ---- what is needed


def install():
    """Each part goes to a folder of its own, which takes its final name when it is whole."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if not (VENV / "complete").exists():
        run(sys.executable, "-m", "venv", "--clear", VENV)
        run(VENV / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES)
        (VENV / "complete").touch()
    if not shutil.which("redis-server") and not REDIS.exists():
        install_redis()


def install_redis():
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        # apt warns that root's folder is closed to its own user, and fetches all the same.
        if subprocess.run(["apt-get", "download", *DEBIAN], cwd=folder, stdout=sys.stderr).returncode != 0:
            sys.exit("peer.py: apt-get could not bring Redis; run `apt-get update`, or install redis-server yourself")
        for package in pathlib.Path(folder).glob("*.deb"):
            run("dpkg-deb", "-x", package, pathlib.Path(folder) / "root")
        os.rename(pathlib.Path(folder) / "root", REDIS)


def run(*command):
    subprocess.run(command, check=True, stdout=sys.stderr)


def enter_venv():
    """Starts over with the environment's Python, which has Feast."""
    if pathlib.Path(sys.prefix) != VENV:
        python = str(VENV / "bin/python")
        os.execv(python, [python, *sys.argv])


# ---- processes


class Processes:
    """The servers that were started; leaving it ends them."""

    def __init__(self):
        self.all = []

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sys.exit(0))
        return self

    def __exit__(self, *_):
        # A second signal must not cut the clearing up short.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        for process in self.all:
            process.terminate()
        for process in reversed(self.all):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def start(self, *command, env=None):
        """In a session of its own, so that Ctrl-C comes to this process alone, and ended if this one is killed."""
        parent = ctypes.CDLL(None)
        options = dict(stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True)
        # 1 is PR_SET_PDEATHSIG.
        died = lambda: parent.prctl(1, signal.SIGTERM)  # noqa: E731
        command = [str(part) for part in command]
        self.all.append(subprocess.Popen(command, env={**os.environ, **(env or {})}, preexec_fn=died, **options))

    def check(self):
        for process in self.all:
            if process.poll() is not None:
                sys.exit(f"peer.py: ended with {process.returncode}: {' '.join(process.args)}")

    def wait(self):
        while True:
            self.check()
            time.sleep(0.5)

    def until(self, what, ready):
        """Waits until `ready()` is true."""
        end = time.monotonic() + START_SECONDS
        while not ready():
            self.check()
            if time.monotonic() > end:
                sys.exit(f"peer.py: {what} did not answer in {START_SECONDS} seconds")
            time.sleep(0.1)


def free_port(host):
    with socket.create_server((host, 0)) as server:
        return server.getsockname()[1]


def listeners(port):
    """How many sockets of this machine listen on a port: one a process of a server that shares it."""
    lines = [line for name in ("tcp", "tcp6") for line in pathlib.Path("/proc/net", name).read_text().splitlines()]
    fields = [line.split()[1:4] for line in lines]
    return sum(local.endswith(f":{port:04X}") and state == "0A" for local, _, state in fields)


# ---- the servers


def serve(args, folder, processes):
    redis = start_redis(folder, processes)
    (folder / "feature_store.yaml").write_text(SETTINGS.format(folder=folder, redis=redis))
    fill(folder, args.cards)
    grpc = start_grpc(args, folder, processes)
    http = start_http(args, folder, processes) if args.http else None
    processes.until("Feast", lambda: listeners(int(grpc.rpartition(":")[2])) >= args.processes)
    check_answer(grpc, args.cards)
    if http:
        processes.until("Feast's HTTP server", lambda: listeners(int(http.rpartition(":")[2])) > 0)
    features = references()
    versions = {"feast": feast_version(), "redis_version": redis_version()}
    shape = {"cards": args.cards, "processes": args.processes, "threads": args.threads}
    return {"grpc": grpc, "http": http, "redis": redis, "features": features, **versions, **shape}


def start_redis(folder, processes):
    """Redis keeps all in memory and writes nothing to disk."""
    port = free_port("127.0.0.1")
    options = dict(bind="127.0.0.1", port=port, dir=folder, save="", appendonly="no", loglevel="warning")
    processes.start(*redis_command(), *(part for k, v in options.items() for part in (f"--{k}", v)), env=libraries())
    processes.until("Redis", lambda: listeners(port) > 0)
    return f"127.0.0.1:{port}"


def redis_command():
    return [shutil.which("redis-server") or REDIS / "usr/bin/redis-server"]


def libraries():
    """Where Debian's packages have their libraries, if it is their Redis that runs."""
    found = ":".join(str(path.parent) for path in REDIS.glob("usr/lib/*/libjemalloc.so.2"))
    return {"LD_LIBRARY_PATH": found} if found and not shutil.which("redis-server") else {}


def redis_version():
    command = [str(part) for part in (*redis_command(), "--version")]
    text = subprocess.run(command, env={**os.environ, **libraries()}, check=True, capture_output=True, text=True).stdout
    return text.split("v=")[1].split()[0]


def feast_version():
    from importlib.metadata import version

    return version("feast")


def fill(folder, cards):
    """Registers the definitions and writes the cards."""
    import definitions
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(folder))
    store.apply(definitions.objects())
    for first in range(0, cards, BATCH):
        rows = definitions.rows(first, min(first + BATCH, cards))
        store.write_to_online_store(definitions.VIEW, rows)


def start_grpc(args, folder, processes):
    """Several processes on one port, among which the kernel deals out connections: a client should open several.

    What makes it faster: a process a core, which gRPC's SO_REUSEPORT allows and which is worth a second core; the
    registry's cache (SETTINGS); redis with hiredis, which the package's extra brings. What was tried and does not, by
    CPU time a call: 1, 4 or 10 threads a process, since Python runs one at a time; the `glide` client for Redis; and a
    feature service with `precompute_online`, which takes longer than the twelve fields one by one.
    """
    host, port = args.address
    where = f"{host}:{port or free_port(host)}"
    for _ in range(args.processes):
        feast(folder, processes, "listen", "-a", where, "-w", args.threads, "-r", REGISTRY_TTL)
    return where


def start_http(args, folder, processes):
    """gunicorn's own workers. Feast has a worker start over after a thousand requests; here it never does."""
    host, port = args.http
    port = port or free_port(host)
    workers = ("-w", args.processes, "--max-requests", 0, "--no-access-log", "-r", REGISTRY_TTL)
    feast(folder, processes, "serve", "-h", host, "-p", port, *workers)
    return f"{host}:{port}"


def feast(folder, processes, *command):
    # gunicorn keeps a socket in its user's home.
    options = dict(env={"HOME": str(folder)})
    processes.start(VENV / "bin/feast", "--log-level", "error", "-c", folder, *command, **options)


def references():
    """The features as a request names them."""
    import definitions

    return [f"{definitions.VIEW}:{name}" for name in definitions.FEATURES]


def check_answer(where, cards):
    """Asks for the first, the last and an unknown card, and stops unless the answer is right."""
    import definitions
    import grpc
    from feast.protos.feast.serving.GrpcServer_pb2_grpc import GrpcFeatureServerStub
    from feast.protos.feast.serving.ServingService_pb2 import FeatureList, GetOnlineFeaturesRequest
    from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value

    numbers = [0, cards - 1]
    column = RepeatedValue(val=[Value(string_val=definitions.card(n)) for n in (*numbers, cards)])
    with grpc.insecure_channel(where) as channel:
        ask = GetOnlineFeaturesRequest(features=FeatureList(val=references()), entities={"card_id": column})
        answer = GrpcFeatureServerStub(channel).GetOnlineFeatures(ask, timeout=30, wait_for_ready=True)
    found = dict(zip(answer.metadata.feature_names.val, answer.results, strict=True))
    for name in definitions.FEATURES:
        got = [getattr(v, v.WhichOneof("val") or "", None) for v in found[name].values]
        wanted = [*(definitions.value(n, name) for n in numbers), None]
        if got != wanted:
            sys.exit(f"peer.py: Feast answered {got} for {name}, not {wanted}")


if __name__ == "__main__":
    main()
