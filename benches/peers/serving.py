#!/usr/bin/env python3
"""Serves one checkpoint here and in PyTorch with Hugging Face's Transformers on the CPU, in turns: prefill and decode in tokens
per second, and memory.

Needs Linux, Python 3.10 or later, and: pip install torch==2.15.0 numpy==2.4.6 transformers==5.24.0 tokenizers==0.23.3. The
checkpoint is made here, with random weights: how fast a token comes does not depend on them. torch.compile also needs g++.

See README.md beside this file.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, DynamicCache, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, StaticCache

TYPES = {"fp32": torch.float32, "fp16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
VOCABULARY = 8192
WIDTH = 512
DEPTH = 8
SPEC = """
name = "serving"
seeds = 1
variants = {variants}
data = {{ kind = "plain-text", train = "text.txt", test_share = 0.5, length = {length} }}
model = {{ kind = "pretrained", folder = "checkpoint" }}
train = {{ steps = 0, batch = 1 }}

[measure]
census_every = 0
timing_blocks = 2
timing_steps = 1
serving = {{ prompt = {prompt}, generate = {generate}, batch = {batch}, prompts = 2 }}
"""


def make(folder, style, length):
    """A checkpoint, and a text of numbers, of which each is a token."""
    torch.manual_seed(0)
    if style == "llama":
        config = LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=1408, num_hidden_layers=DEPTH, num_attention_heads=8,
            num_key_value_heads=4, max_position_embeddings=length, tie_word_embeddings=False,
        )
        model = LlamaForCausalLM(config)
    else:
        config = GPT2Config(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=DEPTH, n_head=8, n_positions=length)
        model = GPT2LMHeadModel(config)
    model.save_pretrained(folder / "checkpoint")
    words = {str(number): number for number in range(VOCABULARY - 1)}
    tokenizer = Tokenizer(models.WordLevel({**words, "[UNK]": VOCABULARY - 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "checkpoint" / "tokenizer.json"))
    numbers = torch.randint(0, VOCABULARY - 1, (20 * length,)).tolist()
    (folder / "text.txt").write_text(" ".join(map(str, numbers)))
    return sum(parameter.numel() for parameter in model.parameters())


class Here:
    """Runs `mantissa experiment` once a turn."""

    def __init__(self, folder, options):
        self.folder, self.options = folder, options
        self.found = {}
        spec = SPEC.format(
            variants=json.dumps(options.formats), length=options.prompt + options.generate, prompt=options.prompt,
            generate=options.generate, batch=options.batch,
        )
        (folder / "serving.toml").write_text(spec)

    def turn(self):
        command = [self.options.mantissa, "experiment", "serving.toml", "--out", "out", "--device", "cpu", "--force", "--quiet"]
        environment = {**os.environ, "RAYON_NUM_THREADS": str(self.options.threads)}
        subprocess.run(command, cwd=self.folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        results = json.loads((self.folder / "out" / "results.json").read_text())
        for variant in results["variants"]:
            for served in variant["serving"]["batches"]:
                times = self.found.setdefault((variant["name"], served["batch"]), {"prefill": [], "decode": []})
                times["prefill"] += served["prefill_blocks"]
                times["decode"] += served["decode_blocks"]
                times["memory"] = served["peak_bytes"]


class There:
    """PyTorch on the same checkpoint: eager with a cache that grows, and compiled with one of a fixed size."""

    def __init__(self, folder, options, name, compiled):
        self.options, self.found = options, {}
        self.model = AutoModelForCausalLM.from_pretrained(folder / "checkpoint", dtype=TYPES[name]).eval()
        self.forward = torch.compile(self.model.forward, dynamic=False) if compiled else self.model.forward
        self.compiled = compiled

    def cache(self, batch):
        if not self.compiled:
            return DynamicCache(config=self.model.config)
        return StaticCache(config=self.model.config, max_cache_len=self.options.prompt + self.options.generate)

    def serve(self, batch):
        """Seconds of the prefill, and of a token."""
        ids = torch.randint(0, VOCABULARY - 1, (batch, self.options.prompt))
        cache = self.cache(batch)
        start = time.perf_counter()
        # As `generate` does: the logits of the last position alone.
        logits = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        token = logits[:, -1].argmax(-1, keepdim=True)
        prefill = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(self.options.generate):
            logits = self.forward(input_ids=token, past_key_values=cache, use_cache=True).logits
            token = logits[:, -1].argmax(-1, keepdim=True)
        return prefill, (time.perf_counter() - start) / self.options.generate

    def turn(self):
        with torch.inference_mode():
            for batch in sorted({1, self.options.batch}):
                self.serve(batch)
                prefill, decode = self.serve(batch)
                times = self.found.setdefault(batch, {"prefill": [], "decode": []})
                times["prefill"].append(prefill)
                times["decode"].append(decode)


def memory(folder, options, name, batch):
    """How far the peak of a process of its own is above what it has with everything imported, in bytes."""
    before = resident("VmRSS")
    there = There(folder, options, name, False)
    with torch.inference_mode():
        there.serve(batch)
    return resident("VmHWM") - before


def resident(field):
    """Bytes, now or at most. What `getrusage` tells would be the peak of the process that started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mantissa", default="target/release/mantissa", type=os.path.abspath)
    parser.add_argument("--style", default="llama", choices=["llama", "gpt2"])
    parser.add_argument("--formats", nargs="+", default=list(TYPES), choices=list(TYPES))
    parser.add_argument("--prompt", default=128, type=int)
    parser.add_argument("--generate", default=64, type=int)
    parser.add_argument("--batch", default=8, type=int)
    parser.add_argument("--turns", default=5, type=int)
    parser.add_argument("--threads", default=len(os.sched_getaffinity(0)), type=int)
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.memory:
        folder, name, batch = options.memory
        print(memory(Path(folder), options, name, int(batch)))
        return
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        count = make(folder, options.style, options.prompt + options.generate)
        print(f"{options.style}, {count / 1e6:.1f} million parameters, {options.threads} threads, torch {torch.__version__}")
        here = Here(folder, options)
        there = {}
        for name in options.formats:
            for compiled in (False, True):
                try:
                    there[name, compiled] = There(folder, options, name, compiled)
                    there[name, compiled].turn()
                    there[name, compiled].found.clear()
                except Exception as error:  # no compiler, or an operation that a format lacks
                    there.pop((name, compiled), None)
                    print(f"{name}, {'compiled' if compiled else 'eager'}: {str(error).splitlines()[0]}", file=sys.stderr)
        for _ in range(options.turns):
            here.turn()
            for model in there.values():
                model.turn()
        report(folder, options, here, there)


def report(folder, options, here, there):
    median = statistics.median
    for (name, batch), ours in here.found.items():
        for what, tokens in (("prefill", batch * options.prompt), ("decode", batch)):
            peers = {
                "compiled" if compiled else "eager": model.found[batch][what]
                for (of, compiled), model in there.items() if of == name
            }
            if not peers:
                continue
            best = min(peers, key=lambda peer: median(peers[peer]))
            rates = ", ".join(f"PyTorch {peer} {tokens / median(times):.0f}" for peer, times in peers.items())
            ratio = median(peers[best]) / median(ours[what])
            print(f"{name} {what} batch {batch}: here {tokens / median(ours[what]):.0f} tokens/s, {rates}; here {ratio:.2f} times as fast")
        command = [sys.executable, __file__, "--memory", str(folder), name, str(batch)]
        command += ["--prompt", str(options.prompt), "--generate", str(options.generate), "--threads", str(options.threads)]
        grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(f"{name} memory batch {batch}: here {ours['memory'] / 2**20:.1f} MiB live, PyTorch's process grows by {grown / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
