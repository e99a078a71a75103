#!/usr/bin/env bash
# Learns a model from generated payments, exports versions of it, and compares what ONNX Runtime (from PyPI, in a virtual
# environment in the target folder) makes of the inputs with what Millrace scored.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace/target}
millrace=${MILLRACE:-$target/release/millrace}
venv=$target/test-export
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$venv"
"$venv/bin/pip" -q install onnx onnxruntime numpy pyarrow xxhash

"$millrace" generate --days 20 --output "$work/payments"
"$venv/bin/python" scripts/onnx-export.py odd "$work/payments/transactions.parquet"
cp -r examples/fraud "$work/project"
"$venv/bin/python" scripts/onnx-export.py text "$work/project"
"$millrace" --project "$work/project" simulate --inputs --output "$work/simulation" \
  --set model.keep=1000 --set model.every=6h \
  --events transactions="$work/payments/transactions.parquet" labels="$work/payments/labels.parquet"

# The same project, with the simulation's registry.
sed -i "s|^\[model\]|&\nregistry = \"$work/simulation/models\"|" "$work/project/millrace.toml"
"$venv/bin/python" scripts/onnx-export.py compare "$millrace" "$work/project" "$work/simulation/scores.parquet"
