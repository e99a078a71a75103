#!/usr/bin/env bash
# The log of scores on S3's own protocol, through kill -9: the program, Apache Kafka (Java 17 and Maven) and moto (an S3
# server). moto, DuckDB, PyArrow and confluent-kafka, from PyPI, go to a virtual environment in the target folder.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace/target}
program=${MILLRACE:-$target/release/millrace}
venv=$target/test-score-log
kafka=${KAFKA_PORT:-15610} # and the one after it; the program's own are the two after those
s3=${S3_PORT:-15614}
work=$(mktemp -d)
server=
# shellcheck disable=SC2317 # it is called by the trap
stop() {
  [[ -z $server ]] || kill "$server"
  scripts/kafka.sh kill "$work/kafka" || true
  rm -rf "$work"
}
trap stop EXIT

python3 -m venv "$venv"
"$venv/bin/pip" -q install 'moto[server]==5.*' boto3 duckdb pyarrow 'confluent-kafka==2.*'

export AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret AWS_REGION=us-east-1
export AWS_ENDPOINT_URL=http://127.0.0.1:$s3 AWS_ALLOW_HTTP=true
"$venv/bin/moto_server" -H 127.0.0.1 -p "$s3" >"$work/moto.log" 2>&1 &
server=$!
scripts/kafka.sh start "$work/kafka" "$kafka"
"$venv/bin/python" scripts/test-score-log.py "$program" "$work" "$kafka"
