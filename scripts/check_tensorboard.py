#!/usr/bin/env python3
"""Checks the event files of a results folder by TensorBoard's own reader.

    pip install tensorboard
    scripts/check_tensorboard.py DIR

Reads DIR/tensorboard as TensorBoard does, prints its runs and their tags with the last values, and compares every value
with the records of the runs that DIR/results.json lists. Exits with 1 where anything differs, or nothing is there.
"""

import json
import math
import struct
import sys
from datetime import datetime
from pathlib import Path

from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

# 0 keeps every point; TensorBoard's defaults keep a sample.
EVERYTHING = {"scalars": 0, "histograms": 0, "compressedHistograms": 0, "tensors": 0}


def f32(value):
    """The nearest float, as TensorBoard keeps it; NaN for a loss that was not finite, of which a record has none."""
    if value is None:
        return math.nan
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)


def comparable(curve):
    """A curve whose NaNs equal each other."""
    return [(step, "NaN" if math.isnan(value) else value) for step, value in curve]


def corners(levels):
    """The level of every step, without the steps inside a stretch of one level."""
    kept = []
    for step, level in enumerate(levels):
        around = levels[max(step - 1, 0) : step + 2]
        if step in (0, len(levels) - 1) or any(other != level for other in around):
            kept.append((step, level))
    return kept


def scalars(record):
    """The curves that a record holds, by tag."""
    steps = range(len(record["loss"]))
    evaluations = record["evaluations"]
    scales = [[scale for first, scale in record["scale"] if first <= step] for step in steps]
    curves = {
        "loss/train": list(enumerate(record["loss"])),
        "loss/test": [(at["step"], at["loss"]) for at in evaluations],
        "accuracy/test": [(at["step"], at["accuracy"]) for at in evaluations],
        "loss_scale": corners([held[-1] for held in scales if held]),
        "skipped_steps": corners([sum(skip["step"] <= step for skip in record["skips"]) for step in steps]),
    }
    return {
        tag: comparable((step, f32(value)) for step, value in curve) for tag, curve in curves.items() if curve
    }


def histograms(record):
    """By tag: the step, and how many values are in each binade, by its exponent."""
    found = {}
    for census in record["census"]:
        exponents = census["exponents"]
        binades = enumerate(exponents["bins"], exponents["first"])
        filled = {float(exponent): float(count) for exponent, count in binades if count}
        if filled:
            tag = f"exponents/{census['role']}/{census['layer']}"
            found[tag] = [(record["census_steps"][-1], filled)]
    return found


def binades(histogram):
    """The filled buckets of a histogram by their lower edges, or what is wrong with it."""
    lefts = [histogram.min, *histogram.bucket_limit[:-1]]
    filled = {left: count for left, count in zip(lefts, histogram.bucket, strict=True) if count}
    middles = [(left + 0.5, count) for left, count in filled.items()]
    checks = {
        "min": (histogram.min, min(filled, default=None)),
        "max": (histogram.max, histogram.bucket_limit[-1]),
        "width": ({right - left for left, right in zip(lefts, histogram.bucket_limit)}, {1.0}),
        "num": (histogram.num, sum(filled.values())),
        "sum": (histogram.sum, sum(middle * count for middle, count in middles)),
        "sum_squares": (histogram.sum_squares, sum(middle**2 * count for middle, count in middles)),
    }
    wrong = {name: pair for name, pair in checks.items() if pair[0] != pair[1]}
    return wrong or filled


def differences(kind, run, found, expected):
    """One line for each tag whose points are not the expected ones."""
    for tag in sorted(found.keys() | expected.keys()):
        if found.get(tag) != expected.get(tag):
            yield f"{run}: {kind} {tag}: TensorBoard reads {found.get(tag)}, the record says {expected.get(tag)}"


def check_run(reader, run, tags, record, started):
    """Prints what TensorBoard reads of a run; returns what is wrong with it."""
    read = {tag: reader.Scalars(run, tag) for tag in tags["scalars"]}
    counted = {tag: reader.Histograms(run, tag) for tag in tags["histograms"]}
    print(run)
    for tag, events in read.items():
        print(f"  {tag}: {len(events)} points, the last {events[-1].value:.6g} at step {events[-1].step}")
    for tag, events in counted.items():
        last = events[-1].histogram_value
        print(f"  {tag}: {last.num:.0f} values, 2^{last.min:.0f} to 2^{last.max:.0f}, at step {events[-1].step}")
    curves = {tag: comparable((event.step, event.value) for event in events) for tag, events in read.items()}
    counts = {
        tag: [(event.step, binades(event.histogram_value)) for event in events]
        for tag, events in counted.items()
    }
    wrong = [*differences("scalar", run, curves, scalars(record))]
    wrong += differences("histogram", run, counts, histograms(record))
    times = {event.wall_time for events in [*read.values(), *counted.values()] for event in events}
    if times - {started}:
        wrong.append(f"{run}: its events are of {sorted(times)}, the experiment began at {started}")
    return wrong


def check(folder):
    """Returns what is wrong with the event files of a results folder, a line each."""
    results = json.loads((folder / "results.json").read_text())
    started = datetime.fromisoformat(results["environment"]["started"].replace("Z", "+00:00")).timestamp()
    reader = EventMultiplexer(size_guidance=EVERYTHING)
    reader.AddRunsFromDirectory(str(folder / "tensorboard"))
    reader.Reload()
    found = reader.Runs()
    listed = results["variants"] + [control["result"] for control in results.get("controls", [])]
    expected = {
        f"{variant['name']}/seed-{run['seed']}" for variant in listed for run in variant["runs"]
    }
    wrong = [f"{run}: TensorBoard reads it, the results do not list it" for run in sorted(found.keys() - expected)]
    wrong += [f"{run}: the results list it, TensorBoard does not read it" for run in sorted(expected - found.keys())]
    if not any(tags["scalars"] for tags in found.values()):
        wrong.append(f"{folder / 'tensorboard'}: TensorBoard reads no scalar there")
    for run in sorted(found.keys() & expected):
        record = json.loads((folder / "runs" / run / "record.json").read_text())
        wrong += check_run(reader, run, found[run], record, started)
    return wrong


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: check_tensorboard.py DIR")
    wrong = check(Path(sys.argv[1]))
    if wrong:
        sys.exit("\n".join(f"check_tensorboard: {line}" for line in wrong))


if __name__ == "__main__":
    main()
