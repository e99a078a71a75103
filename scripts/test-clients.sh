#!/usr/bin/env bash
# Runs the Python client's tests, and those with Feast's own protos, against the demo's server. Packages from PyPI go
# to a virtual environment in the target folder.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace/target}
program=${MILLRACE:-$target/release/millrace}
venv=$target/test-clients
log=$(mktemp)

python3 -m venv "$venv"
"$venv/bin/pip" -q install './clients/python[dev]' 'feast[grpcio]==0.67.*'

(cd clients/python && "$venv/bin/ruff" check . && "$venv/bin/ruff" format --check . && "$venv/bin/mypy" --strict src)

# A test listens there, once the demo is ready; until then its spans are dropped.
traces=127.0.0.1:43180
OTEL_EXPORTER_OTLP_ENDPOINT=http://$traces OTEL_BSP_SCHEDULE_DELAY=500 "$program" demo >"$log" 2>&1 &
demo=$!
trap 'kill -INT "$demo" 2>/dev/null || true; wait "$demo" 2>/dev/null || true; rm -f "$log"' EXIT
echo 'the demo fills a store; this takes two minutes'
until grep -q 'Try next' "$log"; do
  if ! kill -0 "$demo" 2>/dev/null; then
    cat "$log" >&2
    exit 1
  fi
  sleep 1
done
cd clients/python
MILLRACE_SERVER=127.0.0.1:7077 MILLRACE_TRACES=$traces "$venv/bin/python" -m pytest -q
