"""Compares two results folders: python3 scripts/same_results.py DIR OTHER. The records of all runs must be the same bytes, and the
results the same but for times and what follows from them. Prints the first difference and ends with 1 where they are not."""

import json
import pathlib
import sys

# What is a time, follows from one, or says when or where something was done.
TIMES = {
    "train", "inference", "serving", "train_time_ratio", "inference_time_ratio", "claims", "recommendation", "other_load",
    "started", "notes", "threads", "untimed", "checkpoint_every", "machine_kind", "other_kinds",
}


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [without_times(inner) for inner in value]
    return value


def first_difference(one, other, path=""):
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            found = first_difference(one.get(key), other.get(key), f"{path}.{key}")
            if found:
                return found
        return None
    return None if one == other else f"{path}: {str(one)[:200]} and {str(other)[:200]}"


def records(folder):
    found = sorted(pathlib.Path(folder, "runs").glob("*/seed-*/record.json"))
    return {path.relative_to(folder): path.read_bytes() for path in found}


def main(one, other):
    left, right = records(one), records(other)
    if left.keys() != right.keys():
        sys.exit(f"{one} has the runs {sorted(map(str, left))}, {other} {sorted(map(str, right))}")
    for path, contents in left.items():
        if contents != right[path]:
            why = first_difference(json.loads(contents), json.loads(right[path]))
            sys.exit(f"{path} is not the same: {why}")
    results = [json.loads(pathlib.Path(folder, "results.json").read_text()) for folder in (one, other)]
    for folder, result in zip((one, other), results):
        if not result["complete"]:
            sys.exit(f"{folder}: not complete")
        # In a plan this name is no time.
        result["plan"]["training"] = result["plan"].pop("train")
    why = first_difference(*map(without_times, results))
    if why:
        sys.exit(f"results differ: {why}")
    print(f"{len(left)} records are the same bytes, and the results are the same but for times")


if __name__ == "__main__":
    main(*sys.argv[1:])
