#!/usr/bin/env python3
"""Times whole training steps here and in PyTorch's CPU build: same model, batch, optimizer and threads, in turns.

See README.md beside this file.
"""

import argparse
import contextlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import time

import torch
from torch import nn

# name: (batch, shape of a sample, the model)
MODELS = {
    "mlp": (256, (784,), lambda: mlp(784, 512, 512, 10)),
    "cnn": (64, (1, 28, 28), lambda: cnn()),
    "wide-mlp": (256, (784,), lambda: mlp(784, 2048, 2048, 2048, 10)),
}
COMPUTE = {"fp32": None, "fp16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
# With more than this share of the processors in other hands a row's ratio is not to be trusted.
OTHER_LOAD = 0.05
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.01


def mlp(*widths):
    layers = []
    for inputs, outputs in zip(widths, widths[1:]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10),
    )


class Torch:
    """One PyTorch configuration, kept between blocks."""

    def __init__(self, model, policy, fused, channels_last):
        torch.manual_seed(0)
        batch, shape, build = MODELS[model]
        self.model = build()
        self.inputs = torch.rand(batch, *shape)
        self.labels = torch.randint(0, 10, (batch,))
        if channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
            self.inputs = self.inputs.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=fused or None
        )
        self.compute = COMPUTE[policy]
        self.scaler = torch.amp.GradScaler("cpu", enabled=self.compute == torch.float16)
        self.loss = nn.CrossEntropyLoss()

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        low = torch.autocast("cpu", dtype=self.compute) if self.compute else contextlib.nullcontext()
        with low:
            loss = self.loss(self.model(self.inputs), self.labels)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def block(self, warmup, steps):
        for _ in range(warmup):
            self.step()
        seconds = []
        for _ in range(steps):
            start = time.perf_counter()
            self.step()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)


class Ours:
    """Our side: a process of its own for each block."""

    def __init__(self, command, model, policy, threads):
        self.command, self.model, self.policy = command, model, policy
        self.environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}

    def block(self, warmup, steps):
        command = [*self.command, self.model, self.policy, str(warmup + steps)]
        done = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"{shlex.join(command)}: exit code {done.returncode}")
        try:
            record = json.loads(done.stdout)
            told = (record["model"], record["policy"], len(record["step_seconds"]))
        except (ValueError, KeyError, TypeError) as error:
            sys.exit(f"{shlex.join(command)}: not the JSON line that README.md describes: {error!r}")
        asked = (self.model, self.policy, warmup + steps)
        if told != asked:
            sys.exit(f"{shlex.join(command)}: asked for {asked}, told of {told}")
        return statistics.median(record["step_seconds"][warmup:])


def sides(model, policy, command, threads):
    """Our side first, then PyTorch's configurations."""
    found = {"ours": Ours(command, model, policy, threads)}
    found["eager"] = Torch(model, policy, fused=False, channels_last=False)
    found["eager, fused AdamW"] = Torch(model, policy, fused=True, channels_last=False)
    if model == "cnn":
        found["eager, fused AdamW, channels last"] = Torch(model, policy, fused=True, channels_last=True)
    return found


def processor_seconds():
    """Seconds that all processors have given to anyone, the hypervisor included, and to us and our children."""
    with open("/proc/stat") as stat:
        user, nice, system, _idle, _wait, interrupt, soft, steal = map(int, stat.readline().split()[1:9])
    anyone = (user + nice + system + interrupt + soft + steal) / os.sysconf("SC_CLK_TCK")
    return anyone, sum(os.times()[:4])


def in_turns(contestants, arguments):
    """Step time of every block, side -> one number a round. Every other round runs in reverse order."""
    blocks = {name: [] for name in contestants}
    for turn in range(arguments.rounds):
        order = list(contestants.items())
        for name, side in order if turn % 2 == 0 else order[::-1]:
            blocks[name].append(side.block(arguments.warmup, arguments.steps))
    return blocks


def measure(contestants, arguments):
    """As in_turns, and the share of the processors that others took."""
    anyone, us, start = *processor_seconds(), time.perf_counter()
    blocks = in_turns(contestants, arguments)
    anyone, us = (now - then for now, then in zip(processor_seconds(), (anyone, us)))
    return blocks, max(0.0, anyone - us) / (os.cpu_count() * (time.perf_counter() - start))


def rows(model, policy, blocks):
    """One row for each configuration of PyTorch."""
    ours = blocks["ours"]
    for name, theirs in blocks.items():
        if name == "ours":
            continue
        ratios = [torch_block / our_block for torch_block, our_block in zip(theirs, ours)]
        yield {
            "model": model,
            "policy": policy,
            "pytorch": name,
            "ours_ms": 1e3 * statistics.median(ours),
            "torch_ms": 1e3 * statistics.median(theirs),
            "ratio": statistics.median(ratios),
            "ratio_least": min(ratios),
            "ratio_most": max(ratios),
        }


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--policies", nargs="+", choices=COMPUTE, default=list(COMPUTE))
    parser.add_argument("--rounds", type=int, default=6, help="blocks a side")
    parser.add_argument("--steps", type=int, default=30, help="timed steps a block")
    parser.add_argument("--warmup", type=int, default=5, help="untimed steps before each block")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true", help="one JSON line a row in place of the table")
    parser.add_argument(
        "--ours", type=shlex.split, default=["target/release/examples/step_time"],
        metavar="COMMAND", help="our side; model, policy and steps are appended",
    )
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.steps, arguments.threads) < 1 or arguments.warmup < 0:
        parser.error("--rounds, --steps and --threads are at least 1, --warmup at least 0")
    return arguments


def main():
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    if not arguments.json:
        capability = torch.backends.cpu.get_cpu_capability()
        print(f"PyTorch {torch.__version__}, {capability}, {arguments.threads} threads, {arguments.rounds} rounds "
              f"of {arguments.steps} steps; ratio = PyTorch ÷ ours: above 1, ours is faster\n")
        print("| model | policy | PyTorch | ours ms | PyTorch ms | ratio | least to most | other load |")
        print("|---|---|---|---:|---:|---:|---|---:|")
    trusted = True
    for model in arguments.models:
        for policy in arguments.policies:
            blocks, others = measure(sides(model, policy, arguments.ours, arguments.threads), arguments)
            for row in rows(model, policy, blocks):
                row |= {"other_load": others, "trusted": others <= OTHER_LOAD}
                trusted &= row["trusted"]
                print(json.dumps(row) if arguments.json else line(row), flush=True)
    if not trusted:
        sys.exit(f"other processes took more than {OTHER_LOAD:.0%} of the processors in some rows: do not use their "
                 "ratios; run again on a quiet machine")


def line(row):
    """A row of the table; a ratio that is not to be trusted is in brackets."""
    ratio = "{ratio:.2f}" if row["trusted"] else "({ratio:.2f})"
    return ("| {model} | {policy} | {pytorch} | {ours_ms:.3f} | {torch_ms:.3f} | " + ratio
            + " | {ratio_least:.2f} to {ratio_most:.2f} | {other_load:.0%} |").format(**row)


if __name__ == "__main__":
    main()
