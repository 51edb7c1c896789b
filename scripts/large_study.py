"""Time and memory of `plan`, `status` and `collect` by the number of units: python3 scripts/large_study.py PROGRAM [UNITS ...].
The runs of the first seed are done, and their records copied to all other seeds: what is measured is not the training."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

VARIANTS = ["fp32", "fp16-mixed", "bf16-mixed", "fp16-true", "bf16-true"]

SPEC = """
name = "large"
variants = {variants}
seeds = {seeds}
data = {{ kind = "digits", train = 200, test = 100 }}
model = {{ kind = "mlp", hidden = [32] }}
[train]
steps = 100
batch = 20
optimizer = {{ kind = "adamw", lr = 1e-3 }}
[measure]
timing_blocks = 3
timing_steps = 2
"""


def timed(command, folder):
    """Seconds and peak bytes of a command, and its exit code."""
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 5):
        sys.exit(f"{command}: {said.decode()}")
    return time.monotonic() - started, usage.ru_maxrss * 1024


def study(program, units):
    """Rows of (command, seconds, bytes) for a study of about so many units."""
    seeds = max(1, (units - 1) // len(VARIANTS))
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "large.toml").write_text(SPEC.format(variants=json.dumps(VARIANTS), seeds=seeds))
        rows = [("plan", *timed([program, "plan", "large.toml", "--out", "out", "--quiet"], folder))]
        last = seeds * len(VARIANTS)
        for index in [*range(len(VARIANTS)), last]:
            timed([program, "run", "out", "--index", str(index), "--quiet"], folder)
        for variant in VARIANTS:
            record = json.loads((folder / f"out/runs/{variant}/seed-0/record.json").read_text())
            for seed in range(1, seeds):
                record["summary"]["seed"] = seed
                path = folder / f"out/runs/{variant}/seed-{seed}/record.json"
                path.parent.mkdir()
                path.write_text(json.dumps(record, indent=2) + "\n")
        rows.append(("run, finished", *timed([program, "run", "out", "--index", "0", "--quiet"], folder)))
        rows.append(("status", *timed([program, "status", "out"], folder)))
        rows.append(("collect", *timed([program, "collect", "out", "--quiet"], folder)))
        size = (folder / "out/results.json").stat().st_size
        each = (folder / "out/runs/fp32/seed-0/record.json").stat().st_size
        return last + 1, rows, size, each


def main(program, *counts):
    program = str(pathlib.Path(program).resolve())
    print(f"{'units':>7}  {'command':<14} {'seconds':>8} {'MiB':>8}")
    for count in map(int, counts or ["1000", "10000"]):
        units, rows, size, each = study(program, count)
        for command, seconds, peak in rows:
            print(f"{units:>7}  {command:<14} {seconds:>8.2f} {peak / 2**20:>8.0f}")
        print(f"{units:>7}  a record has {each} bytes, results.json {size}")


if __name__ == "__main__":
    main(*sys.argv[1:])
