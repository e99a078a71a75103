#!/usr/bin/env bash
# Makes the modules in src/millrace/_proto again, from proto/proto/millrace/v1 and _proto/details.proto.
#
# grpcio-tools is old on purpose. Generated code runs with the protobuf that it was made for and with newer ones, not
# with older: code that a new grpcio-tools makes would force a new protobuf on every user. What this version makes
# needs protobuf 4.21, and runs with protobuf 7 too. It has wheels for Python 3.7 to 3.12; PYTHON names another one.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
protos="$here/../../proto/proto"
out="$here/src/millrace/_proto"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv "$work/venv"
# It reads its own files with pkg_resources, which newer setuptools lack.
"$work/venv/bin/pip" install --quiet --disable-pip-version-check grpcio-tools==1.62.3 "setuptools<81"

protoc() {
  "$work/venv/bin/python" -m grpc_tools.protoc --python_out="$work" --pyi_out="$work" "$@"
}
cd "$protos"
protoc -I . millrace/v1/values.proto
protoc -I . --grpc_python_out="$work" millrace/v1/{features,models,scoring}.proto
# As millrace/client/details.proto: a file's path is its name in the pool that all of a process's messages share.
mkdir -p "$work/protos/millrace/client"
cp "$out/details.proto" "$work/protos/millrace/client/"
protoc -I "$work/protos" millrace/client/details.proto

rm -f "$out"/*_pb2*
for file in "$work"/millrace/{v1,client}/*_pb2*; do
  # All of them become modules of one package, which import one another by `.`.
  sed 's/^from millrace\.v1 import \([a-z]*_pb2\)/from . import \1/' "$file" > "$out/$(basename "$file")"
done
