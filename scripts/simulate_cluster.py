"""What a study of many runs takes on a cluster: python3 scripts/simulate_cluster.py [--runs N ...]. A simulation by events: nodes
that fail, runs that take longer than others, tasks that Slurm starts one after the other, and a file system that all share.
docs/scale.md says where its numbers are from."""

import argparse
import heapq
import math
import random


def parser():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=1_000_000)
    options.add_argument("--nodes", type=int, default=1000, help="tasks at once")
    options.add_argument("--minutes", type=float, default=20.0, help="median time of a run")
    options.add_argument("--spread", type=float, default=0.25, help="standard deviation of the logarithm of that time")
    options.add_argument("--stragglers", type=float, default=0.01, help="share of runs on a slow node, which takes five times as long")
    options.add_argument("--mtbf", type=float, default=1000.0, help="hours between two failures of a node")
    options.add_argument("--checkpoint", type=float, default=300.0, help="seconds between two checkpoints; 0: none")
    options.add_argument("--bytes", type=float, default=1.2e9, help="of a checkpoint")
    options.add_argument("--bandwidth", type=float, default=5e9, help="of the shared file system, bytes a second")
    options.add_argument("--operations", type=float, default=20e3, help="of the shared file system, files a second")
    options.add_argument("--starts", type=float, default=10.0, help="tasks that Slurm starts in a second")
    options.add_argument("--start-up", type=float, default=20.0, help="seconds until a task trains: program, data, device")
    options.add_argument("--each", type=int, default=1, help="units of a task")
    options.add_argument("--seed", type=int, default=0)
    return options


# Files that a run makes, reads, writes or removes: plan, folder, lock, its record, and looks at them.
FILES_OF_A_RUN = 25
# The same of a checkpoint: a temporary file, its name, and a look at the lock.
FILES_OF_A_CHECKPOINT = 5


def simulate(options):
    """Hours, and how they were spent."""
    random.seed(options.seed)
    # Time that a checkpoint takes where all nodes write theirs evenly spread: alone, or as fast as all together can be served.
    writers = options.nodes / options.checkpoint if options.checkpoint else 0.0
    share = writers * options.bytes / options.bandwidth
    alone = options.bytes / min(options.bandwidth, 1e9)
    write = alone if share < 1 else alone * share
    tasks = math.ceil(options.runs / options.each)
    free = [0.0] * options.nodes
    heapq.heapify(free)
    next_start, useful, lost, saving, starting, end, failures = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0
    requeued = []
    done = 0
    while done < tasks or requeued:
        left = requeued.pop() if requeued else None
        if left is None:
            done += 1
            units = min(options.each, options.runs - (done - 1) * options.each)
            left = sum(
                60 * options.minutes * math.exp(random.gauss(0, options.spread))
                * (5 if random.random() < options.stragglers else 1)
                for _ in range(units)
            )
        now = max(heapq.heappop(free), next_start)
        next_start = now + 1 / options.starts
        starting += options.start_up
        now += options.start_up
        # The whole rest with its checkpoints, or what there was before the node failed.
        checkpoints = left / options.checkpoint if options.checkpoint else 0
        whole = left + checkpoints * write
        fails = random.expovariate(1 / (3600 * options.mtbf))
        if fails >= whole:
            useful += left
            saving += checkpoints * write
            now += whole
        else:
            failures += 1
            period = options.checkpoint + write
            kept = math.floor(fails / period) * options.checkpoint if options.checkpoint else 0.0
            useful += kept
            saving += kept / options.checkpoint * write if options.checkpoint else 0.0
            lost += fails - (kept + (kept / options.checkpoint * write if options.checkpoint else 0.0))
            requeued.append(left - kept)
            now += fails + 90  # until its lock is taken for dead
        end = max(end, now)
        heapq.heappush(free, now)
    files = options.runs * FILES_OF_A_RUN
    if options.checkpoint:
        files += useful / options.checkpoint * FILES_OF_A_CHECKPOINT
    return {
        "hours": end / 3600,
        "ideal": useful / options.nodes / 3600,
        "useful": useful / (end * options.nodes),
        "lost": lost / (end * options.nodes),
        "saving": saving / (end * options.nodes),
        "starting": starting / (end * options.nodes),
        "failures": failures,
        "files": files / end / options.operations,
        "bandwidth": share,
        "slurm": tasks / options.starts / end,
    }


def main():
    options = parser().parse_args()
    found = simulate(options)
    print(f"{options.runs:,} runs, {options.nodes} nodes, {options.each} a task, a checkpoint every {options.checkpoint:g} s")
    print(f"  {found['hours']:.1f} h; without failures, start-up and waiting {found['ideal']:.1f} h; {found['failures']} failures")
    for what in ("useful", "lost", "saving", "starting"):
        print(f"  {what:<9} {100 * found[what]:6.2f}% of the nodes' time")
    print(f"  file system: {100 * found['files']:.1f}% of its files a second, {100 * found['bandwidth']:.1f}% of its bandwidth")
    print(f"  Slurm: {100 * found['slurm']:.1f}% of the tasks that it can start")


if __name__ == "__main__":
    main()
