#!/usr/bin/env python3
"""The learner's network in PyTorch, for the learner's benchmark to be compared with.

    torch_peer.py FOLDER THREADS DEVICE

FOLDER has `network.json` and the numbers that it names, as the benchmark wrote them: encoded inputs, labels, weights,
and the layers to start from. A line of JSON says what PyTorch makes of the first rows, so that the benchmark sees that
the networks are the same. Then each line of standard input, `eager 4` or `compiled 4`, is answered by a line with the
seconds that four passes took.

DEVICE is `cpu` or `cuda`. It is written as TabM's authors write theirs, and the optimizer is the fastest of PyTorch's
(`fused`). All rows are encoded beforehand and lie on the device. Where Python has no PyTorch, it goes to a virtual
environment in ${XDG_CACHE_HOME:-~/.cache}/millrace/torch, once.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time

VENV = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "millrace" / "torch"
CHECKED_ROWS = 256
# What torch.compile is told; `graphs` are CUDA's.
MODES = {"eager": None, "compiled": "default", "graphs": "reduce-overhead"}


def main():
    enter_venv()
    import torch

    folder, threads, device = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    said = json.loads((folder / "network.json").read_text())
    data = Data(folder, said, device)
    # A product of matrices may not be rounded to fewer bits, as ours are not.
    torch.backends.cuda.matmul.allow_tf32 = False
    trainers = {mode: Trainer(folder, said, data, mode) for mode in MODES}
    with torch.inference_mode():
        checked = trainers["eager"].network(data.codes[:CHECKED_ROWS])
        probabilities = torch.sigmoid(checked.double()).mean(1).tolist()
    print(json.dumps({"torch": torch.__version__, "threads": threads, "probabilities": probabilities}), flush=True)
    for line in sys.stdin:
        mode, passes = line.split()
        try:
            seconds = trainers[mode].train(int(passes))
            print(json.dumps({"seconds": seconds}), flush=True)
        except Exception as error:  # torch.compile needs a C++ compiler, and a Python that it knows.
            print(json.dumps({"failed": f"{type(error).__name__}: {error}"[:300]}), flush=True)


def enter_venv():
    """Starts over with a Python that has PyTorch."""
    if "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return
    python = sys.executable
    if not all(map(importlib.util.find_spec, ("torch", "numpy"))):
        python = str(VENV / "bin/python")
        if not (VENV / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True, stdout=sys.stderr)
            subprocess.run([python, "-m", "pip", "-q", "install", "torch", "numpy"], check=True, stdout=sys.stderr)
            (VENV / "complete").touch()
    # glibc would give the memory of each large tensor back to the system, and ask for it again in the next step.
    memory = {f"MALLOC_{name}_THRESHOLD_": "4000000000" for name in ("MMAP", "TRIM")}
    os.execve(python, [python, *sys.argv], {**os.environ, **memory})


def numbers(folder, name, *shape):
    import numpy
    import torch

    return torch.from_numpy(numpy.fromfile(folder / f"{name}.f32", dtype="<f4").reshape(shape).copy())


class Data:
    def __init__(self, folder, said, device):
        rows = said["rows"]
        self.device = device
        self.codes = numbers(folder, "codes", rows, -1).to(device)
        self.labels = numbers(folder, "labels", rows).to(device)
        self.weights = numbers(folder, "weights", rows).to(device)


class Trainer:
    def __init__(self, folder, said, data, mode):
        import torch

        self.data, self.batches = data, said["rows"] // said["batch_rows"]
        self.network = network(folder, said["layers"]).to(data.device)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=said["learning_rate"], eps=1e-8, weight_decay=said["weight_decay"], fused=True
        )
        self.loss = self.batch_loss
        if mode != "eager":
            self.loss = torch.compile(self.loss, mode=MODES[mode])

    def batch_loss(self, codes, labels, weights):
        import torch

        logits = self.network(codes)
        labels = labels[:, None].expand_as(logits)
        each = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return (each.mean(1) * weights).mean()

    def train(self, passes):
        import torch

        started = time.perf_counter()
        for _ in range(passes):
            order = torch.randperm(len(self.data.labels), device=self.data.device)
            for rows in order.chunk(self.batches):
                loss = self.loss(self.data.codes[rows], self.data.labels[rows], self.data.weights[rows])
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
        if self.data.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started


def network(folder, layers):
    """BatchEnsemble layers, as TabM has them, on `[rows, members, numbers]`."""
    import torch
    from torch import nn

    class Layer(nn.Module):
        def __init__(self, index, said):
            super().__init__()
            members, inputs, outputs = said["members"], said["inputs"], said["outputs"]
            load = lambda part, *shape: nn.Parameter(numbers(folder, f"layer{index}.{part}", *shape))  # noqa: E731
            self.is_shared = said["groups"] == 1
            self.weight = load("weight", *((inputs, outputs) if self.is_shared else (members, inputs, outputs)))
            self.scale_in = load("scale_in", members, inputs) if said["scales"] else None
            self.scale_out = load("scale_out", members, outputs) if said["scales"] else None
            self.bias = load("bias", members, outputs)

        def forward(self, values):
            if self.scale_in is not None:
                values = values * self.scale_in
            if self.is_shared:
                values = values @ self.weight
            else:
                values = (values.transpose(0, 1) @ self.weight).transpose(0, 1)
            if self.scale_out is not None:
                values = values * self.scale_out
            return values + self.bias

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(Layer(index, said) for index, said in enumerate(layers))

        def forward(self, codes):
            values = codes[:, None, :]
            for layer in self.layers[:-1]:
                values = torch.relu(layer(values))
            return self.layers[-1](values)[..., 0]

    return Network()


if __name__ == "__main__":
    main()
