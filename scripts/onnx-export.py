#!/usr/bin/env python3
"""Exported versions in ONNX Runtime, against the scores that Millrace gave for the same inputs.

    onnx-export.py text PROJECT                         gives the project's model an input that is text
    onnx-export.py odd TRANSACTIONS                     gives some payments of the last two days amounts that are absurd
    onnx-export.py compare MILLRACE PROJECT SCORES

SCORES is the scores.parquet of `millrace simulate --inputs`; PROJECT has the simulation's registry. Exit code 1 where a
probability differs by more than 1e-5.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import onnx
import onnxruntime
import pyarrow
import pyarrow.parquet
import xxhash

TOLERANCE = 1e-5
MOST_VERSIONS = 8


# Labels come a week after their payment: no version that has scored these has learned from them.
ODD_DAYS = 2
ODD_EVERY = 20
ODD = [1e9, -1e9, 0.0, -0.0, 1e20, -1e20, 1e300, 3.4e38, 1e-40, 16_777_217.0]


def main():
    match sys.argv[1:]:
        case ["text", project]:
            add_text(project)
        case ["odd", transactions]:
            make_odd(transactions)
        case ["compare", millrace, project, scores]:
            compare_all(millrace, project, scores)
        case _:
            sys.exit(__doc__)


def add_text(project):
    """More texts than have codes of their own, some of them rare, and now and then none."""
    file = pathlib.Path(project) / "inputs.sql"
    text = file.read_text()
    more = "SELECT CASE WHEN t.amount > 5 THEN substr(t.terminal_id, 1, 2) END AS place, t.amount,"
    assert text.count("SELECT t.amount,") == 1
    file.write_text(text.replace("SELECT t.amount,", more))


def make_odd(file):
    table = pyarrow.parquet.read_table(file)
    times = numpy.asarray(table["event_time"].cast("int64"))
    amounts = numpy.array(table["amount"], dtype=numpy.float64)
    late = numpy.flatnonzero(times > times.max() - ODD_DAYS * 86_400_000_000)[::ODD_EVERY]
    amounts[late] = numpy.resize(ODD, len(late))
    column = table.schema.get_field_index("amount")
    pyarrow.parquet.write_table(table.set_column(column, "amount", pyarrow.array(amounts)), file)


def compare_all(millrace, project, scores):
    table = pyarrow.parquet.read_table(scores)
    versions = numpy.asarray(table["model_version"].combine_chunks().fill_null(0))
    kept = json.loads(run(millrace, project, "list", "--json"))
    scored = [v["version"] for v in kept if (versions == v["version"]).any()]
    if not scored:
        sys.exit("no version that is kept has scored a row")
    scored = sorted({*scored[:: max(1, len(scored) // MOST_VERSIONS)], scored[-1]})
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "model.onnx"
        for version in scored:
            print(run(millrace, project, "export", str(version), "--output", str(file)).strip())
            worst = max(worst, compare(file, version, table.filter(versions == version)))
        run(millrace, project, "export", "--output", str(file))
        champion = next(v["version"] for v in kept if v["champion"])
        assert metadata(file)["millrace.version"] == str(champion), "the champion is exported where none is named"
    print(f"{len(scored)} versions: largest difference of all {worst:.2e}")
    if not worst <= TOLERANCE:
        sys.exit(f"that is more than {TOLERANCE}")


def run(millrace, project, *command):
    command = [millrace, "--project", project, "models", *command]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def metadata(file):
    return {entry.key: entry.value for entry in onnx.load(file).metadata_props}


def compare(file, version, table):
    """The largest difference on the rows that the version scored."""
    onnx.checker.check_model(str(file), full_check=True)
    said = metadata(file)
    assert said["millrace.version"] == str(version)
    assert json.loads(said["millrace.categories"]) == ["place"]
    inputs = matrix(table, json.loads(said["millrace.inputs"]))
    ours = numpy.asarray(table["score"], dtype=numpy.float64)
    session = onnxruntime.InferenceSession(str(file))
    theirs = session.run(["probability"], {"inputs": inputs})[0]
    assert theirs.shape == (len(inputs),)
    # Row by row too: nothing may depend on the batch.
    alone = [session.run(None, {"inputs": inputs[row : row + 1]})[0][0] for row in range(min(50, len(inputs)))]
    worst = max(abs(theirs - ours).max(), abs(numpy.array(alone) - ours[: len(alone)]).max())
    missing, huge = numpy.isnan(inputs).sum(), (abs(inputs) >= 1e9).sum()
    print(
        f"  {len(inputs)} rows, {missing} inputs missing, {huge} huge; scores {ours.min():.5f} to {ours.max():.5f}: "
        f"largest difference {worst:.2e}"
    )
    return worst


def matrix(table, names):
    """As live scoring has it: f32, a text its code, and NaN where an input is missing."""
    columns = [numbers(table[name].combine_chunks()) for name in names]
    floats = [column.cast("float32").fill_null(float("nan")) for column in columns]
    return numpy.column_stack([numpy.asarray(column, dtype=numpy.float32) for column in floats])


def numbers(column):
    if not pyarrow.types.is_string(column.type):
        return column
    codes = {text: float(code(text)) for text in column.unique().to_pylist() if text is not None}
    return pyarrow.array([codes.get(text) for text in column.to_pylist()], pyarrow.float32())


def code(text):
    return xxhash.xxh3_64_intdigest(text.encode()) & 0xFFFFFF


if __name__ == "__main__":
    main()
