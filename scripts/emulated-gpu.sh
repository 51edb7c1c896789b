#!/usr/bin/env bash
# Makes an emulated GPU from tests/cuda_emulation and this project's kernels, and prints the environment in which a program
# built with `--features cuda` finds it in place of NVIDIA's libraries. For tests on a machine without a GPU: it is slow, and
# shows nothing of speed. Needs g++ and the CUDA toolkit's headers.
#
#     eval "$(scripts/cuda-toolkit.sh)"
#     cargo test --features cuda --no-run
#     (eval "$(scripts/emulated-gpu.sh)"; cargo test --features cuda --test cuda)
set -euo pipefail

project=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/mantissa/emulated-gpu}
headers=${CUDA_HOME:-${CUDA_PATH:-/usr/local/cuda}}/include
libraries=(libcuda.so.1 libcudart.so.13 libcublas.so.13 libcublasLt.so.13 libcurand.so.10 libnvrtc.so.13)

fail() { printf 'emulated-gpu: %s\n' "$*" >&2; exit 1; }
command -v g++ >/dev/null || fail 'g++ is missing'
[ -f "$headers/cublas_api.h" ] || fail "no cublas_api.h in $headers; set CUDA_HOME to a CUDA toolkit"

compile() { g++ -std=c++20 -O2 -ffp-contract=off -fPIC -I "$project/tests/cuda_emulation" -I "$project/src/ops" "$@"; }

# One .cu file as an object that registers each kernel that it defines.
compile_kernels() {
  local source=$1 object=$2 name
  compile -O0 -x c++ -c "$source" -o "$object"
  {
    printf '#include "kernels.hpp"\n#include "%s"\n' "$source"
    nm --defined-only "$object" | awk '$2 == "T" && $3 !~ /^_Z/ { print "REGISTER(" $3 ")" }'
  } > "$object.cpp"
  compile -c "$object.cpp" -o "$object"
}

build_in() {
  local part=$1 source name
  for source in "$project"/src/ops/*.cu; do
    compile_kernels "$source" "$part/$(basename "$source").o" &
  done
  compile -c "$project/tests/cuda_emulation/gpu.cpp" -o "$part/gpu.o" &
  # Every other function that a program may be linked with answers that it is not supported. The last ones are those that nvcc
  # registers the kernels of a C++ program with: candle has some that nothing here calls.
  (
    cd "$headers"
    {
      grep -hoE '\b(cuda|cublas|cublasLt|curand|nvrtc)[A-Z][A-Za-z0-9_]*' cuda_runtime_api.h cublas*.h curand.h nvrtc.h
      printf '__cuda%s\n' GetKernel LaunchKernel LaunchKernel_ptsz PopCallConfiguration PushCallConfiguration \
        RegisterFatBinary RegisterFatBinaryEnd RegisterFunction RegisterVar UnregisterFatBinary
    } | sort -u |
      sed 's/.*/__attribute__((weak)) int &(void) { return 15; }/'
  ) | gcc -w -O1 -fPIC -x c -c - -o "$part/others.o"
  local job
  for job in $(jobs -p); do wait "$job" || fail 'a part does not compile'; done
  g++ -shared -o "$part/gpu.so" "$part"/*.o -ldl
  for name in "${libraries[@]}"; do ln "$part/gpu.so" "$part/$name"; done
}

# Made again when anything that it is made of has changed.
key=$(cat "$0" "$project"/src/ops/*.cu* "$project"/tests/cuda_emulation/* | sha256sum)
if [ "$(cat "$folder/key" 2>/dev/null)" != "$key" ]; then
  rm -rf "$folder"
  mkdir -p "$folder"
  build_in "$folder" >&2 || fail 'it cannot be built'
  printf '%s\n' "$key" > "$folder/key"
fi
printf 'export LD_LIBRARY_PATH=%q\n' "$folder"
