#!/usr/bin/env python3
"""Times whole training steps on a GPU here and in PyTorch: eager, with CUDA graphs, and compiled; same models and batches, in turns.

See README.md beside this file.
"""

import argparse
import contextlib
import json
import os
import shlex
import sys

import torch
from torch import nn

from pytorch_cpu import LEARNING_RATE, WEIGHT_DECAY, Ours, in_turns, mlp, resnet, rows


# name: (batch, shape of a sample, the model)
MODELS = {
    "gpu-mlp": (8192, (784,), lambda: mlp(784, 4096, 4096, 4096, 10)),
    "gpu-resnet": (1024, (1, 28, 28), lambda: resnet(1, 20, 64)),
}
# Eager, recorded as a CUDA graph, and by torch.compile.
HOW = ["eager", "graphs", "compile"]
# name: (type of autocast, whether TF32 is allowed)
POLICIES = {
    "fp32": (None, False),
    "tf32": (None, True),
    "fp16-mixed": (torch.float16, False),
    "bf16-mixed": (torch.bfloat16, False),
}


class Torch:
    """One PyTorch configuration, kept between blocks. `how` is eager, graphs or compile."""

    def __init__(self, model, policy, how, channels_last):
        torch.manual_seed(0)
        batch, shape, build = MODELS[model]
        self.compute, self.tf32 = POLICIES[policy]
        self.how = how
        memory = {"memory_format": torch.channels_last} if channels_last else {}
        self.model = build().cuda().to(**memory) if memory else build().cuda()
        self.inputs = torch.rand(batch, *shape, device="cuda")
        self.inputs = self.inputs.to(**memory) if memory else self.inputs
        self.labels = torch.randint(0, 10, (batch,), device="cuda")
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True, capturable=True
        )
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.compute == torch.float16)
        self.loss = nn.CrossEntropyLoss()
        self.forward = torch.compile(self.losses) if how == "compile" else self.losses
        self.graph = None

    def losses(self, inputs, labels):
        low = torch.autocast("cuda", dtype=self.compute) if self.compute else contextlib.nullcontext()
        with low:
            return self.loss(self.model(inputs), labels)

    def gradients(self):
        self.scaler.scale(self.forward(self.inputs, self.labels)).backward()

    def update(self):
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def step(self):
        if self.graph is None:
            self.optimizer.zero_grad(set_to_none=True)
            self.gradients()
            self.update()
            return
        self.graph.replay()
        # The scaler's step asks the GPU whether it is to be skipped, which cannot be in a graph.
        if self.scaler.is_enabled():
            self.update()

    def capture(self):
        """Records a step, after some on a stream of their own, as PyTorch's documentation asks."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.gradients()
            if not self.scaler.is_enabled():
                self.optimizer.step()
        self.graph = graph

    def block(self, warmup, steps):
        torch.backends.cuda.matmul.allow_tf32 = self.tf32
        torch.backends.cudnn.allow_tf32 = self.tf32
        # Sums of 16-bit products in f32, as here.
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        if self.how == "graphs" and self.graph is None:
            self.capture()
        for _ in range(warmup):
            self.step()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(steps):
            self.step()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3 / steps


def sides(model, policy, arguments):
    """Our side first, then PyTorch's configurations; and those that do not run here, with the reason: torch.compile, say, needs a
    C compiler."""
    found = {"ours": Ours(arguments.ours, model, policy, threads=len(os.sched_getaffinity(0)))}
    # After eight models torch.compile would compile no more, and run eagerly without a word.
    torch.compiler.reset()
    failed = {}
    layouts = [False, True] if model == "gpu-resnet" else [False]
    for how in arguments.how:
        for channels_last in layouts:
            name = f"{how}, channels last" if channels_last else how
            try:
                side = Torch(model, policy, how, channels_last)
                # What is compiled or recorded at the first step is there before the turns begin.
                side.block(1, 1)
                found[name] = side
            except Exception as error:  # whatever a compiler, a driver or a full memory raises
                failed[name] = " ".join(str(error).split())[:200] or type(error).__name__
    return found, failed


def tell(row, arguments):
    """One line of the output."""
    if arguments.json:
        print(json.dumps(row), flush=True)
    elif "failed" in row:
        reason = row["failed"].replace("|", "\\|")
        print("| {model} | {policy} | {pytorch} | | failed: ".format(**row) + reason + " | | |", flush=True)
    else:
        print(("| {model} | {policy} | {pytorch} | {ours_ms:.3f} | {torch_ms:.3f} | {ratio:.2f} "
               "| {ratio_least:.2f} to {ratio_most:.2f} |").format(**row), flush=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--how", nargs="+", choices=HOW, default=HOW, help="how PyTorch runs a step")
    parser.add_argument("--rounds", type=int, default=4, help="blocks a side")
    parser.add_argument("--steps", type=int, default=20, help="timed steps a block")
    parser.add_argument("--warmup", type=int, default=10, help="untimed steps before each block")
    parser.add_argument("--json", action="store_true", help="one JSON line a row in place of the table")
    parser.add_argument(
        "--ours", type=shlex.split, default=["target/release/examples/step_time", "--device", "cuda"],
        metavar="COMMAND", help="our side; model, policy and steps are appended",
    )
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.steps) < 1 or arguments.warmup < 0:
        parser.error("--rounds and --steps are at least 1, --warmup at least 0")
    return arguments


def main():
    arguments = parse()
    if not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU; this comparison needs one")
    if not arguments.json:
        print(f"PyTorch {torch.__version__}, {torch.cuda.get_device_name()}, {arguments.rounds} rounds of "
              f"{arguments.steps} steps; ratio = PyTorch ÷ ours: above 1, ours is faster\n")
        print("| model | policy | PyTorch | ours ms | PyTorch ms | ratio | least to most |")
        print("|---|---|---|---:|---:|---:|---|")
    complete = True
    for model in arguments.models:
        for policy in arguments.policies:
            found, failed = sides(model, policy, arguments)
            for row in rows(model, policy, in_turns(found, arguments)):
                tell(row, arguments)
            for name, reason in failed.items():
                tell({"model": model, "policy": policy, "pytorch": name, "failed": reason}, arguments)
            complete &= not failed
            del found
            torch.cuda.empty_cache()
    if not complete:
        sys.exit("some of PyTorch's configurations do not run here")


if __name__ == "__main__":
    main()
