#!/usr/bin/env python3
"""Times whole training steps here and in PyTorch on the CPU: same model, batch, optimizer and threads, in turns.

Needs Linux, Python 3.10 or later, and two packages: pip install torch==2.15.0 numpy==2.4.6. Tried with these; torch 2.4 or
later should do. From PyPI, torch for Linux brings CUDA's libraries along, 5 GB in all, and does not start without them;
PyTorch's own index has a build for the CPU alone. torch.compile also needs g++; without it those rows say so.

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

# name: (batch, shape of a sample, the model, the optimizer)
MODELS = {
    "mlp": (256, (784,), lambda: mlp(784, 512, 512, 10), "adamw"),
    "cnn": (64, (1, 28, 28), lambda: cnn(), "adamw"),
    "wide-mlp": (256, (784,), lambda: mlp(784, 2048, 2048, 2048, 10), "adamw"),
    "resnet20": (128, (3, 32, 32), lambda: resnet(3, 20, 16), "sgd"),
    "encoder": (16, (128,), lambda: Encoder(), "adamw"),
}
COMPUTE = {"fp32": None, "fp16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
# With more than this share of the processors in other hands a row's ratio is not to be trusted.
OTHER_LOAD = 0.05
# A block of PyTorch's ends after this time, however few steps it has.
BLOCK_SECONDS = 10
# Before the turns each variant of PyTorch is tried for TRIAL_STEPS steps or TRIAL_SECONDS, whichever is less. One that takes
# SLOW times as long as the fastest of them is told from its trial alone.
TRIAL_STEPS = 5
TRIAL_SECONDS = 2
SLOW = 4
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.01
OPTIMIZERS = {
    "adamw": lambda parameters, **how: torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, **how),
    # As in experiments/cifar-resnet.toml.
    "sgd": lambda parameters, **how: torch.optim.SGD(
        parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, **how
    ),
}


# Models that `step_time` has as modules of candle too, computed and differentiated by candle.
CANDLE = {"mlp", "wide-mlp"}


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


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, which is a 1 x 1 convolution where the shape changes."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x):
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet(channels, depth, width):
    layers = [nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    inputs = width
    for stage in range(3):
        outputs = width << stage
        for block in range((depth - 2) // 6):
            layers.append(Block(inputs, outputs, 2 if stage > 0 and block == 0 else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


class Encoder(nn.Module):
    """A transformer with the norm before, four blocks of 256 values a token and 8 heads, and the mean of all tokens."""

    def __init__(self, tokens=8192, positions=128, width=256, depth=4, heads=8, classes=2):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(tokens, width), nn.Embedding(positions, width)
        self.blocks = nn.ModuleList(EncoderBlock(width, heads) for _ in range(depth))
        self.norm, self.output = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions.weight
        for block in self.blocks:
            x = block(x)
        return self.output(self.norm(x).mean(1))


class EncoderBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.projections = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        n, t, d = x.shape
        parts = self.projections(self.norms[0](x)).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(*parts.unbind(0))
        x = x + self.output(y.transpose(1, 2).reshape(n, t, d))
        return x + self.feed_forward(self.norms[1](x))


class Torch:
    """One PyTorch configuration, kept between blocks. `update` is what its optimizer is told: foreach or fused, or nothing."""

    def __init__(self, model, policy, update, compiled, channels_last):
        torch.manual_seed(0)
        batch, shape, build, optimizer = MODELS[model]
        self.model = build()
        if model == "encoder":
            self.inputs = torch.randint(0, 8192, (batch, *shape))
        else:
            self.inputs = torch.rand(batch, *shape)
        self.labels = torch.randint(0, 2 if model == "encoder" else 10, (batch,))
        if channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
            self.inputs = self.inputs.to(memory_format=torch.channels_last)
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters(), **update)
        self.compute = COMPUTE[policy]
        self.scaler = torch.amp.GradScaler("cpu", enabled=self.compute == torch.float16)
        self.loss = nn.CrossEntropyLoss()
        self.forward = torch.compile(self.losses) if compiled else self.losses

    def losses(self, inputs, labels):
        low = torch.autocast("cpu", dtype=self.compute) if self.compute else contextlib.nullcontext()
        with low:
            return self.loss(self.model(inputs), labels)

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(self.forward(self.inputs, self.labels)).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def times(self, steps, limit):
        """Seconds of each of at most so many steps; the one in which the limit is reached is the last."""
        seconds = []
        while len(seconds) < steps and sum(seconds) < limit:
            start = time.perf_counter()
            self.step()
            seconds.append(time.perf_counter() - start)
        return seconds

    def trial(self):
        """The shortest of some steps after the first one, which compiles."""
        self.step()
        return min(self.times(TRIAL_STEPS, TRIAL_SECONDS))

    def block(self, warmup, steps):
        seconds = self.times(warmup + steps, BLOCK_SECONDS)
        # The last step counts in any case.
        return statistics.median(seconds[min(warmup, len(seconds) - 1):])


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


def variants(model):
    """PyTorch's configurations: name -> what Torch is told."""
    fused = {"update": {"fused": True}}
    found = {
        "eager": {"update": {}, "compiled": False},
        "eager, foreach": {"update": {"foreach": True}, "compiled": False},
        "eager, fused": {**fused, "compiled": False},
        "compiled, fused": {**fused, "compiled": True},
    }
    found = {name: {**how, "channels_last": False} for name, how in found.items()}
    if len(MODELS[model][1]) == 3:  # images
        found["eager, fused, channels last"] = {**found["eager, fused"], "channels_last": True}
        found["compiled, fused, channels last"] = {**found["compiled, fused"], "channels_last": True}
    return found


def sides(model, policy, arguments):
    """The sides that take turns, ours first unless it is left out; those of PyTorch's that are too slow to, with the seconds of
    a step; and those that do not run here, with the reason."""
    # After eight models torch.compile would compile no more, and run eagerly without a word.
    torch.compiler.reset()
    found, trials, failed = {}, {}, {}
    if not arguments.alone:
        found["ours"] = Ours(arguments.ours, model, policy, arguments.threads)
        if model in CANDLE:
            found["candle"] = Ours(arguments.ours, f"candle-{model}", policy, arguments.threads)
    for name, how in variants(model).items():
        try:
            found[name] = Torch(model, policy, **how)
            trials[name] = found[name].trial()
        except Exception as error:  # whatever a compiler or an operation raises
            found.pop(name, None)
            failed[name] = " ".join(str(error).split())[:200] or type(error).__name__
    least = min(trials.values(), default=0.0)
    slow = {name: trial for name, trial in trials.items() if trial > SLOW * least}
    return {name: side for name, side in found.items() if name not in slow}, slow, failed


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
    ours = blocks.get("ours")
    for name, theirs in blocks.items():
        if name == "ours":
            continue
        row = {"model": model, "policy": policy, "pytorch": name, "torch_ms": 1e3 * statistics.median(theirs)}
        if ours:
            ratios = [torch_block / our_block for torch_block, our_block in zip(theirs, ours)]
            row |= {
                "ours_ms": 1e3 * statistics.median(ours),
                "ratio": statistics.median(ratios),
                "ratio_least": min(ratios),
                "ratio_most": max(ratios),
            }
        yield row


def all_rows(model, policy, arguments):
    """As rows, with those that took no turns. The fastest of them is the peer."""
    found, slow, failed = sides(model, policy, arguments)
    blocks, others = measure(found, arguments)
    timed = list(rows(model, policy, blocks))
    peer = min((row for row in timed if row["pytorch"] != "candle"), key=lambda row: row["torch_ms"], default=None)
    for row in timed:
        yield row | {"peer": row is peer, "other_load": others, "trusted": others <= OTHER_LOAD}
    named = {"model": model, "policy": policy, "peer": False}
    for name, trial in slow.items():
        yield named | {"pytorch": name, "torch_ms": 1e3 * trial, "slow": True}
    for name, reason in failed.items():
        yield named | {"pytorch": name, "failed": reason}


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--policies", nargs="+", choices=COMPUTE, default=list(COMPUTE))
    parser.add_argument("--rounds", type=int, default=6, help="blocks a side")
    parser.add_argument(
        "--steps", type=int, default=30, help=f"timed steps a block; PyTorch's ends after {BLOCK_SECONDS} s all the same"
    )
    parser.add_argument("--warmup", type=int, default=5, help="untimed steps before each block")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true", help="one JSON line a row in place of the table")
    parser.add_argument("--alone", action="store_true", help="PyTorch's side only")
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
              f"of {arguments.steps} steps; ratio = PyTorch ÷ ours: above 1, ours is faster; bold: the peer, the fastest\n")
        print("| model | policy | PyTorch | ours ms | PyTorch ms | ratio | least to most | other load |")
        print("|---|---|---|---:|---:|---:|---|---:|")
    trusted = True
    for model in arguments.models:
        for policy in arguments.policies:
            for row in all_rows(model, policy, arguments):
                trusted &= row.get("trusted", True)
                print(json.dumps(row) if arguments.json else line(row), flush=True)
    if not trusted:
        sys.exit(f"other processes took more than {OTHER_LOAD:.0%} of the processors in some rows: do not use their "
                 "times and ratios; run again on a quiet machine")


def line(row):
    """A row of the table; the peer is bold, and a ratio that is not to be trusted in brackets."""
    ours = theirs = ratio = span = load = ""
    if "failed" in row:
        theirs = "failed: " + row["failed"].replace("|", "\\|")
    else:
        theirs = f"{row['torch_ms']:.3f}"
    if "slow" in row:
        ratio = "(slow)"
    if "ratio" in row:
        ours, ratio = f"{row['ours_ms']:.3f}", f"{row['ratio']:.2f}"
        ratio = ratio if row["trusted"] else f"({ratio})"
        span = f"{row['ratio_least']:.2f} to {row['ratio_most']:.2f}"
    if "other_load" in row:
        load = f"{row['other_load']:.0%}"
    name = f"**{row['pytorch']}**" if row["peer"] else row["pytorch"]
    return "| " + " | ".join([row["model"], row["policy"], name, ours, theirs, ratio, span, load]) + " |"


if __name__ == "__main__":
    main()
