#!/usr/bin/env bash
# Makes an emulated GPU from tests/cuda_emulation and this project's kernels, and prints the environment in which a program
# built with `--features cuda` finds it in place of NVIDIA's libraries. For tests on a machine without a GPU: it is slow, and
# shows nothing of speed. Needs g++ and the CUDA toolkit's headers. What can be set is in tests/cuda_emulation/gpu.hpp.
#
#     eval "$(scripts/cuda-toolkit.sh)"
#     cargo test --features cuda --no-run
#     (eval "$(scripts/emulated-gpu.sh)"; cargo test --features cuda --test cuda)
set -euo pipefail

project=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/mantissa/emulated-gpu}
headers=${CUDA_HOME:-${CUDA_PATH:-/usr/local/cuda}}/include

fail() { printf 'emulated-gpu: %s\n' "$*" >&2; exit 1; }
for tool in gcc g++ nm flock sha256sum; do
  command -v "$tool" >/dev/null || fail "$tool is missing"
done
[ -f "$headers/cublas_api.h" ] || fail "no cublas_api.h in $headers; set CUDA_HOME to a CUDA toolkit"

# Programs are linked with the library, so that it is there when they start: what belongs to a thread is found without a call.
# A fortified longjmp would take the fibers' stacks for a mistake.
compile() {
  g++ -std=c++20 -O2 -U_FORTIFY_SOURCE -ffp-contract=off -fPIC -ftls-model=initial-exec -Wall -Wextra -Werror \
    -I "$project/tests/cuda_emulation" -I "$project/src/ops" -isystem "$headers" "$@"
}

# One .cu file as an object that registers each kernel that it defines.
compile_kernels() {
  local source=$1 object=$2
  compile -O0 -x c++ -c "$source" -o "$object"
  {
    printf '#include "kernels.hpp"\n#include "%s"\n' "$source"
    nm --defined-only "$object" | awk '$2 == "T" && $3 !~ /^_Z/ { print "REGISTER(" $3 ")" }'
  } > "$object.cpp"
  compile -c "$object.cpp" -o "$object"
}

# Every other function that a program may be linked with says that it is not emulated, and answers that it is not supported:
# the functions of a library whose headers name them so, with its code for that. What follows the headers are names that no
# header has.
lacking() {
  local status=$1 names=$2
  shift 2
  # nvcc's programs call some by another name, where each of their threads has a default stream of its own.
  sed -E 's/__CUDART_API_PT(SZ|DS)\((\w+)\)/\2_pt\L\1/' "${@/#/$headers/}" | grep -oE "\b${names}[A-Z][A-Za-z0-9_]*" | sort -u |
    sed "s/.*/__attribute__((weak)) int &(void) { return emulated_gpu_lacks(\"&\", $status); }/"
}

write_lacking() {
  printf 'int emulated_gpu_lacks(const char* function, int status);\n'
  lacking 801 cu cuda.h
  lacking 15 cublas cublas_api.h
  lacking 15 cublasLt cublasLt.h
  lacking 105 curand curand.h
  lacking 7 nvrtc nvrtc.h
  lacking 801 cuda cuda_runtime_api.h
  # With these nvcc registers the kernels of a C++ program as it starts. candle has some that nothing here calls.
  printf '__attribute__((weak)) void* __cuda%s(void) { return 0; }\n' \
    RegisterFatBinary RegisterFatBinaryEnd RegisterFunction RegisterVar UnregisterFatBinary
  printf '__attribute__((weak)) int __cuda%s(void) { return 801; }\n' \
    GetKernel LaunchKernel LaunchKernel_ptsz PopCallConfiguration PushCallConfiguration
}

# One library with the names and versions of all, so that each of its parts knows the others.
versions() {
  cat <<'END'
libcuda.so.1 { global: cu[A-Z]*; local: *; };
libcudart.so.13 { global: cuda*; __cuda*; };
libcublas.so.13 { global: cublas[A-KM-Z]*; cublasL[a-su-z]*; };
libcublasLt.so.13 { global: cublasLt*; };
libcurand.so.10 { global: curand*; };
libnvrtc.so.13 { global: nvrtc*; };
END
}

build_in() {
  local part=$1 source job
  for source in "$project"/src/ops/*/*.cu; do
    compile_kernels "$source" "$part/$(basename "$source").o" &
  done
  for source in "$project"/tests/cuda_emulation/*.cpp; do
    compile -c "$source" -o "$part/$(basename "$source").o" &
  done
  write_lacking | gcc -w -O1 -fPIC -x c -c - -o "$part/lacking.o"
  for job in $(jobs -p); do wait "$job" || fail 'a part does not compile'; done
  versions > "$part/versions"
  g++ -shared -Wl,--version-script="$part/versions" -o "$part/gpu.so" "$part"/*.o
  versions | while read -r name _; do ln -f "$part/gpu.so" "$part/$name"; done
}

# Made again when anything that it is made of has changed.
key=$(cat "$0" "$project"/src/ops/*.cuh "$project"/src/ops/*/*.cu "$project"/tests/cuda_emulation/* | sha256sum; printf '%s\n' "$project" "$headers")
mkdir -p "$(dirname "$folder")"
# One at a time: a second call waits, and then finds the work done.
exec 9>"$folder.lock"
flock 9
if [ "$(cat "$folder/key" 2>/dev/null)" != "$key" ]; then
  rm -rf "$folder"
  mkdir "$folder"
  build_in "$folder" >&2
  printf '%s\n' "$key" > "$folder/key"
fi
# shellcheck disable=SC2016 # it is for the shell that reads this
printf 'export LD_LIBRARY_PATH=%q${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}\n' "$(cd "$folder" && pwd)"
