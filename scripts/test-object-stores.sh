#!/usr/bin/env bash
# The registry of models on S3's own protocol, and what MLflow is told: the program against moto (an S3 server) and
# MLflow, both from PyPI, which go to a virtual environment in the target folder.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace/target}
program=${MILLRACE:-$target/release/millrace}
venv=$target/test-object-stores
s3=${S3_PORT:-15590}
mlflow=${MLFLOW_PORT:-15591}
work=$(mktemp -d)

python3 -m venv "$venv"
"$venv/bin/pip" -q install 'moto[server]==5.*' 'mlflow==3.*'

pids=()
# shellcheck disable=SC2317 # it is called by the trap
stop() {
  for pid in "${pids[@]}"; do
    # MLflow's server has workers: each server has a process group of its own.
    kill -- "-$pid" 2>/dev/null || true
  done
  rm -rf "$work"
}
trap stop EXIT

start() {
  setsid "$@" >"$work/$(basename "$1").log" 2>&1 &
  pids+=("$!")
}

answers() {
  for _ in $(seq 120); do
    if curl -s -o /dev/null "$1"; then
      return
    fi
    sleep 1
  done
  echo "$1 does not answer" >&2
  cat "$work"/*.log >&2
  exit 1
}

start "$venv/bin/moto_server" -H 127.0.0.1 -p "$s3"
start "$venv/bin/mlflow" server --host 127.0.0.1 --port "$mlflow" --workers 1 \
  --backend-store-uri "sqlite:///$work/mlflow.db" --default-artifact-root "$work/artifacts"
answers "http://127.0.0.1:$s3/"

echo 'the demo fills a store; this takes two minutes'
"$program" demo --exit --dir "$work/demo" >"$work/demo.log" 2>&1 || {
  cat "$work/demo.log" >&2
  exit 1
}
answers "http://127.0.0.1:$mlflow/health"

export AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret AWS_REGION=us-east-1
export AWS_ENDPOINT_URL=http://127.0.0.1:$s3 AWS_ALLOW_HTTP=true
"$venv/bin/python" scripts/test-object-stores.py "$program" "$work/demo" "http://127.0.0.1:$mlflow"
