#!/usr/bin/env bash
# Tries gpu-check.sh end to end on the emulated GPU: packs, runs the small form with the libraries hidden in a Python's
# site-packages, and makes the summary of the whole and of what a run that was cut off leaves. Arguments go to `run`: without any
# it leaves the CUDA tests out. Needs what scripts/gpu-check.sh and scripts/emulated-gpu.sh need.
#
#     scripts/gpu-check-trial.sh                        # about a minute after the build
#     PROFILE=release scripts/gpu-check-trial.sh --steps doctor,tests
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'gpu-check-trial: %s\n' "$*" >&2; exit 1; }
has() { grep -q -- "$2" "$1" || { cat "$1" >&2; fail "$1 lacks: $2"; }; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
environment=$(scripts/cuda-toolkit.sh)
emulated=$(eval "$environment"; eval "$(scripts/emulated-gpu.sh)"; printf '%s' "${LD_LIBRARY_PATH%%:*}")
scripts/gpu-check.sh prepare --profile "${PROFILE:-dev}" "$scratch/packed"

# A Python in an odd place, with the libraries where PyTorch's wheels have them; and nothing else that could be found. The
# driver's library is among them here. Links, so that all names are one library.
python3 -m venv --without-pip "$scratch/an odd place"
site=$("$scratch/an odd place/bin/python3" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p "$site/nvidia/cu13/lib" "$site/nvidia/curand/lib"
ln -s "$emulated"/lib*.so.* "$site/nvidia/cu13/lib"
mv "$site/nvidia/cu13/lib"/libcurand.so.* "$site/nvidia/curand/lib"
check() {
  env -u LD_LIBRARY_PATH -u CUDA_HOME -u CUDA_PATH PATH="$scratch/an odd place/bin:/usr/bin:/bin" \
    "$scratch/packed/gpu-check.sh" run --small --search "$scratch" "$@"
}

arguments=("$@")
[ $# -gt 0 ] || arguments=(--steps 'doctor,experiment,gpu-mlp,peers-mlp,gpu-resnet,peers-resnet,sanitizer')
code=0
check "${arguments[@]}" "$scratch/out" || code=$?
has "$scratch/out/status.md" '^- not found: nothing'
has "$scratch/out/log.txt" 'Emulated GPU'
if [ $# -eq 0 ]; then
  # There is no PyTorch for such a GPU: recorded, and no hindrance.
  [ "$code" = 1 ] || fail "the peers cannot have run, but the exit code is $code"
  for step in doctor experiment gpu-mlp gpu-resnet; do has "$scratch/out/status.md" "^| $step | [0-9.]* | 0 |"; done
  for step in peers-mlp peers-resnet; do has "$scratch/out/status.md" "^| $step | [0-9.]* | 1 |"; done
  scripts/gpu-check.sh summary --into "$scratch/reference" "$scratch/out" > "$scratch/log.md"
  has "$scratch/log.md" '^### gpu-resnet'
  for file in experiment gpu-mlp gpu-resnet; do
    [ -f "$scratch/reference/emulated-gpu/$file/results.json" ] || fail "the summary kept no results of $file"
  done
  # With too little time the later steps are skipped, and the summary still tells.
  check --total 45 --steps doctor,experiment,peers-mlp,gpu-mlp,gpu-resnet "$scratch/short" || true
  has "$scratch/short/status.md" '^| doctor |'
  scripts/gpu-check.sh summary --into "$scratch/reference" "$scratch/short" > "$scratch/short.md"
  has "$scratch/short.md" '^| doctor |'
fi
echo 'gpu-check-trial: fine'
