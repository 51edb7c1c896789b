#!/usr/bin/env bash
# Everything that only a GPU can show, by one command on a machine that has one for some minutes and nothing of ours.
set -euo pipefail

usage() {
  cat <<'END'
usage: gpu-check.sh prepare [--profile dev|release] [FOLDER]
       FOLDER/gpu-check.sh run [--small] [--total SECONDS] [--steps NAME,...] [--search FOLDER] OUT
       gpu-check.sh summary [--into FOLDER] OUT

prepare  here, without a GPU: builds the program, the example step_time and the CUDA tests, strips them, and packs them with
         what a run needs into FOLDER (target/gpu-check), under 64 MiB. Copy that folder to the machine with the GPU. Needs what
         scripts/cuda-toolkit.sh needs, and binutils. The first build takes ten minutes or more.
run      there: finds the CUDA libraries and does the steps below, in order, each with its own time limit, all within SECONDS
         (540). A step that fails or is stopped at its limit stops no other. Needs Linux on x86-64, a driver of CUDA 13, and
         CUDA 13's libraries, in Python's site-packages or a toolkit's folder; PyTorch for the peers; no network, no compiler.
         OUT gets, after every step: status.md (step, seconds, exit code), log.txt (the output of all), files.tar.gz (the output
         of each, and the results).
summary  here: prints a Markdown section for LOG.md, and puts the results into a folder of the GPU's name in FOLDER
         (reports/reference). Takes what is there, also from a run that was cut off. Needs python3.

steps: doctor, tests, experiment (the default one), gpu-mlp, peers-mlp, gpu-resnet, peers-resnet, sanitizer (where
compute-sanitizer is), peers-compiled (the peers again, by torch.compile). --steps does some of them, in this order.
--small     shrinks the experiments until an emulated GPU can do them
--search    where libraries are looked for that are in no usual place (/)

exit code: 0 when every step that was done ended with 0, 1 when one did not, 2 for wrong usage
END
}

fail() { printf 'gpu-check: %s\n' "$*" >&2; exit 1; }
wrong() { printf 'gpu-check: %s; gpu-check.sh --help tells more\n' "$*" >&2; exit 2; }

here=$(cd "$(dirname "$0")" && pwd)

# ---- prepare

# What cargo tells of a build, on stdin, as "NAME<tab>PATH", a line for each program.
executables() {
  python3 -c '
import json, sys
for line in sys.stdin:
    told = json.loads(line)
    if told.get("executable"):
        print(told["target"]["name"], told["executable"], sep="\t")'
}

build_in() {
  local part=$1 name path environment flags=()
  [ "$profile" = dev ] || flags=(--release)
  environment=$(scripts/cuda-toolkit.sh)
  # As .ci/run builds, so that candle's kernels are compiled once: one architecture whatever GPU is here, outside the checkout.
  # What is compiled for 8.0 is compiled again by the driver for a later GPU, such as an H100 of 9.0.
  (
    eval "$environment"
    export CUDA_COMPUTE_CAP=80 CARGO_TARGET_DIR="${XDG_CACHE_HOME:-$HOME/.cache}/mantissa/cuda-target"
    cargo build "${flags[@]}" --features cuda --locked --bin mantissa --example step_time --test cuda \
      --message-format=json-render-diagnostics
  ) > "$part/messages"
  mkdir "$part/bin"
  executables < "$part/messages" | while IFS=$'\t' read -r name path; do
    strip -o "$part/bin/$name" "$path"
  done
  rm "$part/messages"
  for name in mantissa step_time cuda; do
    [ -x "$part/bin/$name" ] || fail "cargo built no $name"
  done
}

# The newest version of glibc that the programs in $1 ask for.
glibc_of() {
  objdump -T "$1"/* | grep -oE 'GLIBC_[0-9]+\.[0-9]+' | sort -uV | tail -n 1 | sed 's/GLIBC_//'
}

prepare() {
  local profile=release folder='' part bytes limit=$((64 << 20)) commit
  while [ $# -gt 0 ]; do
    case $1 in
      --profile) profile=${2:-}; [[ $profile =~ ^(dev|release)$ ]] || wrong "--profile is dev or release"; shift ;;
      -*) wrong "unknown option $1" ;;
      *) [ -z "$folder" ] || wrong "one FOLDER only"; folder=$1 ;;
    esac
    shift
  done
  [ -f "$here/../Cargo.toml" ] || wrong 'prepare needs the checkout, this is a packed folder'
  folder=$(realpath -m "${folder:-$here/../target/gpu-check}")
  [ ! -e "$folder" ] || [ -f "$folder/gpu-check.sh" ] || fail "$folder is there and is no packed folder; name another"
  cd "$here/.."
  part=$folder.part
  rm -rf "$part"
  mkdir -p "$part"
  build_in "$part"
  mkdir "$part/experiments" "$part/peers"
  cp experiments/gpu-mlp.toml experiments/gpu-resnet.toml "$part/experiments"
  cp benches/peers/pytorch_cpu.py benches/peers/pytorch_cuda.py "$part/peers"
  cp scripts/gpu-check.sh "$part"
  commit=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
  [ -z "$(git status --porcelain --untracked-files=no 2>/dev/null)" ] || commit+=-dirty
  printf '%s\n' "$commit" > "$part/commit"
  glibc_of "$part/bin" > "$part/glibc"
  # Most of a program is text of kernels, which compresses well.
  tar -C "$part/bin" -cf - . | gzip -9 > "$part/bin.tar.gz"
  rm -rf "${part:?}/bin" "$folder"
  mv "$part" "$folder"
  bytes=$(du -sb "$folder" | cut -f 1)
  printf 'packed commit %s into %s: %d.%d MiB; it needs glibc %s or later there\n' "$commit" "$folder" \
    $((bytes >> 20)) $(((bytes & 1048575) * 10 >> 20)) "$(cat "$folder/glibc")"
  [ "$bytes" -lt "$limit" ] || fail "that is more than 64 MiB"
  cat <<END
On the machine with the GPU:  $(basename "$folder")/gpu-check.sh run OUT
Here, with what is in OUT:    scripts/gpu-check.sh summary OUT
END
}

# ---- run

# Every Python that may be meant.
pythons() {
  local name
  { for name in python3 python; do type -P -a "$name" || true; done
    ls -d /opt/*/bin/python3 /opt/*/.venv/bin/python3 /opt/*/venv/bin/python3 "${CONDA_PREFIX:-/opt/conda}/bin/python3" \
      /usr/local/bin/python3 /usr/bin/python3 2>/dev/null || true
  } | awk '!seen[$0]++'
}

# Folders where CUDA's libraries usually are. Python's first: they are PyTorch's, and both sides of a comparison should multiply
# with the same.
usual_folders() {
  local python root
  pythons | while read -r python; do
    timeout 20 "$python" -c '
import glob, os, sys
for root in sys.path:
    if os.path.basename(root) in ("site-packages", "dist-packages"):
        for folder in sorted(glob.glob(glob.escape(root) + "/nvidia/*/lib")) + [root + "/torch/lib"]:
            print(folder)' 2>/dev/null < /dev/null || true
  done
  for root in "${CUDA_HOME:-}" "${CUDA_PATH:-}" /usr/local/cuda /usr/local/cuda-13* /opt/cuda* /usr/local/nvidia \
    "$(dirname "$(type -P nvcc || echo /usr/local/cuda/bin/nvcc)")/.."; do
    [ -z "$root" ] || printf '%s\n' "$root"/lib64 "$root"/lib "$root"/targets/x86_64-linux/lib
  done
  printf '%s\n' /usr/lib/x86_64-linux-gnu /usr/lib64 /usr/lib/wsl/lib
}

# Names of libraries that the loader does not find: those that the program is linked with, and the driver's, which it loads
# itself.
missing_libraries() {
  { LD_TRACE_LOADED_OBJECTS=1 LD_PRELOAD=libcuda.so.1 LD_LIBRARY_PATH=$libraries "$bin/mantissa" 2>&1 || true
  } | sed -nE "s/^[[:space:]]*([^ ]+) => not found.*/\1/p; s/.*object '([^']+)' from LD_PRELOAD cannot be preloaded.*/\1/p" | sort -u
}

# Adds to `libraries` the first of the folders in which each of the missing libraries is, until nothing more is found: what one
# library needs is known when that is there.
take_libraries_from() {
  local name folder before=''
  while [ -n "$lacking" ] && [ "$lacking" != "$before" ]; do
    before=$lacking
    for name in $lacking; do
      for folder in "$@"; do
        [ -e "$folder/$name" ] || continue
        [[ :$libraries: == *":$folder:"* ]] || libraries=${libraries:+$libraries:}$folder
        break
      done
    done
    lacking=$(missing_libraries)
  done
}

# Sets `libraries`, a search path with a folder for each library that the loader does not find by itself, and `lacking`, the
# names of those that are nowhere.
find_libraries() {
  local folders=() name names before=''
  lacking=$(missing_libraries)
  mapfile -t folders < <(usual_folders | awk '!seen[$0]++')
  take_libraries_from "${folders[@]}"
  # Again after a find, for what the found need.
  while [ -n "$lacking" ] && [ "$lacking" != "$before" ]; do
    before=$lacking names=()
    for name in $lacking; do names+=(-o -name "$name"); done
    mapfile -t folders < <(timeout 20 find "$search" \( -path /proc -o -path /sys -o -path /dev \) -prune -o \
      \( "${names[@]:1}" \) -printf '%h\n' 2>/dev/null | awk '!seen[$0]++')
    take_libraries_from "${folders[@]}"
  done
}

# The first Python with PyTorch, else the first.
choose_python() {
  local python first=''
  while read -r python; do
    first=${first:-$python}
    if timeout 20 "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' 2>/dev/null < /dev/null; then
      printf '%s\n' "$python"
      return
    fi
  done < <(pythons)
  printf '%s\n' "${first:-python3}"
}

# compute-sanitizer, if it is here.
find_sanitizer() {
  local root path
  type -P compute-sanitizer && return
  for root in "${CUDA_HOME:-}" /usr/local/cuda /usr/local/cuda-13* /opt/cuda* /opt/nvidia/* \
    "$(dirname "$(type -P nvcc || echo /usr/local/cuda/bin/nvcc)")/.."; do
    for path in "$root/bin/compute-sanitizer" "$root/compute-sanitizer/compute-sanitizer"; do
      if [ -n "$root" ] && [ -x "$path" ]; then printf '%s\n' "$path"; return; fi
    done
  done
}

# What this machine is, so that the numbers can be told apart from another's.
describe_machine() {
  local gpu
  gpu=$(timeout 30 nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total,clocks.max.sm,power.limit \
    --format=csv,noheader 2>/dev/null || echo 'unknown, nvidia-smi tells nothing')
  printf 'GPU: %s\n' "$gpu"
  printf 'commit: %s\n' "$(cat "$here/commit")"
  printf 'started: %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
  printf 'processors: %s\n' "$(nproc)"
  printf 'glibc: %s, of which %s or later is needed\n' "$(getconf GNU_LIBC_VERSION | sed 's/glibc //')" "$(cat "$here/glibc")"
  printf 'libraries: %s\n' "${libraries:-where the loader looks}"
  printf 'not found: %s\n' "$(printf '%s ' "${lacking:-nothing}" | xargs)"
  printf 'python: %s\n' "$python"
  timeout 60 "$python" -c 'import torch; print("PyTorch:", torch.__version__)' 2>/dev/null || echo 'PyTorch: none'
  LD_TRACE_LOADED_OBJECTS=1 LD_LIBRARY_PATH=$libraries "$bin/mantissa" 2>&1 || true
  timeout 30 nvidia-smi 2>&1 || true
}

write_status() {
  {
    printf '# GPU check of commit %s\n\n' "$(cat "$here/commit")"
    sed -n '1,/^PyTorch/s/^/- /p' "$work/machine.txt"
    printf '\n| step | seconds | exit code | |\n| --- | ---: | ---: | --- |\n'
    [ ${#rows[@]} -eq 0 ] || printf '%s\n' "${rows[@]}"
    [ -z "${1:-}" ] || printf '%s\n' "$1"
  } > "$out/.status"
  mv "$out/.status" "$out/status.md"
}

# Puts all that is known into OUT.
save() {
  local file
  write_status "${1:-}"
  for file in "$work"/*.txt; do
    printf '\n==== %s\n' "$(basename "$file" .txt)"
    tail -c 200000 "$file"
  done > "$out/.log"
  mv "$out/.log" "$out/log.txt"
  cp "$out/status.md" "$work"
  tar -C "$work" --exclude=./bin --exclude=./cache --exclude='report.html' --exclude='*.svg' -czf "$out/.files" .
  mv "$out/.files" "$out/files.tar.gz"
}

left() { printf '%s\n' $((total - SECONDS)); }

row() { rows+=("| $1 | $2 | $3 | $4 |"); printf '%-16s %8s s   exit code %-4s %s\n' "$1" "$2" "$3" "$4"; }

wanted() { [ -z "$only" ] || [[ ,$only, == *",$1,"* ]]; }

# step NAME LIMIT COMMAND...: its output goes to NAME.txt. The last seconds are for saving.
step() {
  local name=$1 limit=$2 start code=0 note='' seconds
  shift 2
  wanted "$name" || return 0
  if [ "$(left)" -lt 20 ]; then row "$name" '' '' 'skipped: no time is left'; return; fi
  [ "$limit" -le $(($(left) - 10)) ] || limit=$(($(left) - 10))
  save "| $name | | | running |"
  start=$EPOCHREALTIME
  timeout --kill-after=5 "$limit" "$@" > "$work/$name.txt" 2>&1 < /dev/null || code=$?
  seconds=$(awk -v start="$start" -v end="$EPOCHREALTIME" 'BEGIN { printf "%.1f", end - start }')
  # 137 where it had to be killed.
  case $code in 124 | 137) note="stopped at its limit of $limit s" ;; esac
  [ "$code" = 0 ] || failed=1
  if [ "$name" = tests ]; then
    note+="${note:+; }$(grep -cE '(^| )ok$' "$work/tests.txt" || true) ok"
    note+=", $(grep -cE '(^| )FAILED$' "$work/tests.txt" || true) failed"
    note+=", $(grep -c 'skipped: ' "$work/tests.txt" || true) of them skipped"
  fi
  row "$name" "$seconds" "$code" "$note"
  save
}

skip() { wanted "$1" || return 0; row "$1" '' '' "skipped: $2"; save; }

# experiment NAME LIMIT ARGUMENTS...: one of the program. Where it is stopped, a report is made of what there is.
experiment() {
  local name=$1 limit=$2 results=$work/results/$1
  shift 2
  step "$name" "$limit" "$work/mantissa" experiment "$@" --device cuda --out "$results"
  if [ -f "$results/results.json" ] && [ ! -f "$results/summary.md" ] && [ "$(left)" -gt 20 ]; then
    timeout 20 "$work/mantissa" report "$results" >> "$work/$name.txt" 2>&1 < /dev/null || true
    save
  fi
}

# peers NAME LIMIT ARGUMENTS...
peers() {
  local name=$1 limit=$2
  shift 2
  step "$name" "$limit" "$python" "$here/peers/pytorch_cuda.py" "$@" --ours "$work/step_time --device cuda"
}

# All steps. The limits add up to more than the total: what one leaves, a later one may use.
steps() {
  local mlp=(--set measure.timing_blocks=8) resnet=(--set measure.timing_blocks=6 --set measure.timing_steps=10)
  local tiny=(--seeds 1 --variants 'fp32,fp16-mixed' --set data.train=120 --set data.test=40 --set train.steps=6
    --set train.batch=20 --set train.schedule.warmup=2 --set measure.census_every=3 --set measure.timing_blocks=2
    --set measure.timing_steps=2 --set measure.timing_warmup=1 --set measure.inference_batch=20)
  # Three seeds: all eight of the default experiment may take longer than this step has.
  local default=(--seeds 3) sanitizer
  if [ "$small" = 1 ]; then
    default=("${tiny[@]}" --set 'model.hidden=[32, 16]')
    mlp=("${tiny[@]}" --set 'model.hidden=[32, 16]')
    resnet=("${tiny[@]}" --set model.depth=8 --set model.width=2)
  fi
  step doctor 45 "$work/mantissa" doctor
  CARGO_BIN_EXE_mantissa=$work/mantissa step tests 120 "$work/cuda" --test-threads=1 --nocapture
  experiment experiment 50 "${default[@]}"
  experiment gpu-mlp 120 "$here/experiments/gpu-mlp.toml" "${mlp[@]}"
  peers peers-mlp 60 --models gpu-mlp --how eager graphs --rounds 2 --policies bf16-mixed fp16-mixed tf32 fp32
  experiment gpu-resnet 90 "$here/experiments/gpu-resnet.toml" "${resnet[@]}"
  peers peers-resnet 60 --models gpu-resnet --how eager graphs --rounds 2 --steps 10 --policies bf16-mixed fp16-mixed tf32 fp32
  sanitizer=$(find_sanitizer)
  if [ -n "$sanitizer" ]; then
    step sanitizer 90 "$sanitizer" --target-processes all --error-exitcode 9 "$work/mantissa" experiment "${tiny[@]}" \
      --device cuda --out "$work/results/sanitizer"
  else
    skip sanitizer 'compute-sanitizer is not here'
  fi
  peers peers-compiled 500 --models gpu-resnet gpu-mlp --how compile --rounds 2 --steps 10 --policies bf16-mixed tf32 fp16-mixed fp32
}

# Only our programs get the libraries that were found: PyTorch has its own.
write_wrapper() {
  printf '#!/usr/bin/env bash\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "$libraries" "$bin/$1" > "$work/$1"
  chmod +x "$work/$1"
}

run() {
  local small=0 total=540 only='' search=/ out='' libraries=${LD_LIBRARY_PATH:-} lacking='' failed=0 python rows=() work bin name
  while [ $# -gt 0 ]; do
    case $1 in
      --small) small=1 ;;
      --total) total=${2:-}; [[ $total =~ ^[1-9][0-9]*$ ]] || wrong '--total needs a number of seconds'; shift ;;
      --steps) only=${2:-}; [ -n "$only" ] || wrong '--steps needs names'; shift ;;
      --search) search=${2:-}; [ -d "$search" ] || wrong '--search needs a folder'; shift ;;
      -*) wrong "unknown option $1" ;;
      *) [ -z "$out" ] || wrong 'one OUT only'; out=$1 ;;
    esac
    shift
  done
  [ -n "$out" ] || wrong 'run needs OUT, a folder'
  for name in ${only//,/ }; do
    [[ " doctor tests experiment gpu-mlp peers-mlp gpu-resnet peers-resnet sanitizer peers-compiled " == *" $name "* ]] ||
      wrong "unknown step $name"
  done
  [ -f "$here/bin.tar.gz" ] || wrong 'run needs the folder that prepare packed: run the gpu-check.sh that is in there'
  mkdir -p "$out"
  out=$(cd "$out" && pwd)
  work=$(mktemp -d)
  # shellcheck disable=SC2064 # the folder is known now
  trap "rm -rf '$work'" EXIT
  bin=$work/bin
  mkdir "$bin"
  tar -C "$bin" -xzf "$here/bin.tar.gz"
  # What the driver compiles for this GPU it compiles once.
  export CUDA_CACHE_PATH=$work/cache CUDA_CACHE_MAXSIZE=1073741824 PYTHONDONTWRITEBYTECODE=1
  find_libraries
  python=$(choose_python)
  describe_machine > "$work/machine.txt"
  for name in mantissa step_time cuda; do
    write_wrapper "$name"
  done
  sed -n '1,/^PyTorch/p' "$work/machine.txt"
  steps
  save
  printf 'in %s: status.md, log.txt, files.tar.gz, after %d s\n' "$out" "$SECONDS"
  return "$failed"
}

case ${1:-} in
  prepare | run) "$@" ;;
  summary)
    shift
    exec python3 "$here/gpu_check_summary.py" "$@"
    ;;
  -h | --help) usage ;;
  '') wrong 'a command is missing' ;;
  *) wrong "unknown command $1" ;;
esac
