#!/usr/bin/env bash
# Does an experiment on a Slurm of two virtual nodes on this machine, whole and timed on both, and with tasks killed and requeued at
# random, and compares the results with those of one process: scripts/slurm-tests.sh PROGRAM [OPTIONS OF THE EXPERIMENT]. For Debian; installs
# its Slurm where there is none, and needs root. Everything it starts ends with it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
program=$(realpath "$1")
shift

if ! command -v slurmctld >/dev/null; then
  apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge >&2
fi

work=$(mktemp -d)
pids=()
stop() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait || true
  [ -n "${KEEP:-}" ] || rm -rf "$work"
}
trap stop EXIT

host=$(hostname -s)
mkdir -p /run/munge "$work/state"
chown munge: /run/munge
cat >"$work/slurm.conf" <<CONF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MaxArraySize=16
StateSaveLocation=$work/state
SlurmctldPidFile=$work/slurmctld.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdSpoolDir=$work/spool.%n
SlurmdPidFile=$work/slurmd.%n.pid
SlurmdLogFile=$work/slurmd.%n.log
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=1 RealMemory=2000 Feature=one State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=1 RealMemory=2000 Feature=two State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="$work/slurm.conf"
pgrep -x munged >/dev/null || runuser -u munge -- /usr/sbin/munged
slurmctld -D -i >/dev/null 2>&1 &
pids+=($!)
for node in n1 n2; do
  mkdir -p "$work/spool.$node"
  slurmd -D -N "$node" >/dev/null 2>&1 &
  pids+=($!)
done
for _ in $(seq 60); do
  [ "$(sinfo --noheader --Node --states=idle 2>/dev/null | wc -l)" = 2 ] && break
  sleep 1
done
sinfo --Node

# Waits for the collecting job of a submission, given the lines that it printed.
wait_for_the_end() {
  local collecting
  collecting=$(sed -n 's/.*; job \([0-9]*\) collects.*/\1/p' <<<"$1")
  while squeue --noheader --jobs "$collecting" 2>/dev/null | grep -q .; do
    "${2:-true}"
    # A task that was requeued would wait for two minutes.
    scontrol show job 2>/dev/null | sed -n 's/^JobId=\([0-9]*\).*/\1/p' | while read -r job; do
      scontrol update "jobid=$job" starttime=now 2>/dev/null || true
    done
    sleep 1
  done
}

kills=0
# Kills a running task, or requeues it, one time in two.
disturb() {
  [ "$kills" -lt "${KILLS:-12}" ] || return 0
  local jobs job
  mapfile -t jobs < <(squeue --noheader --states=running --array --format=%i | grep _ || true)
  [ "${#jobs[@]}" -gt 0 ] || return 0
  job=${jobs[RANDOM % ${#jobs[@]}]}
  if [ $((RANDOM % 2)) = 0 ]; then
    scancel --signal=KILL --full "$job" && lost=1
  else
    scontrol requeue "$job"
  fi
  kills=$((kills + 1))
}

echo "== in one process"
"$program" experiment --out "$work/local" --quiet --threads 1 "$@" >/dev/null
echo "== as an array of two nodes, timed on each"
submitted=$("$program" slurm --out "$work/array" --cpus-per-task 1 --max-parallel 2 --kind one --kind two "$@")
echo "$submitted"
wait_for_the_end "$submitted"
"$program" status "$work/array"
python3 "$here/same_results.py" "$work/local" "$work/array"
python3 - "$work/array/results.json" <<'CHECK'
import json, sys
results = json.load(open(sys.argv[1]))
kinds = [results["machine_kind"], *(other["kind"] for other in results["other_kinds"])]
assert kinds == ["one", "two"], kinds
print("timed on", *kinds)
CHECK
echo "== as an array whose tasks are killed and requeued"
lost=0
submitted=$("$program" slurm --out "$work/disturbed" --cpus-per-task 1 --max-parallel 2 --set train.checkpoint_every=5 "$@")
echo "$submitted"
wait_for_the_end "$submitted" disturb
"$program" status "$work/disturbed"
echo "$kills tasks were killed or requeued"
# A task that is killed has failed for Slurm: the same command submits what is left.
while ! "$program" collect "$work/disturbed" --quiet >/dev/null; do
  submitted=$("$program" slurm --out "$work/disturbed" --cpus-per-task 1 --max-parallel 2 --set train.checkpoint_every=5 "$@")
  wait_for_the_end "$submitted"
done
"$program" status "$work/disturbed"
python3 "$here/same_results.py" "$work/local" "$work/disturbed"
