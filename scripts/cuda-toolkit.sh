#!/usr/bin/env bash
# Installs the part of CUDA 13.0 that a build with `--features cuda` needs (nvcc, headers, libraries to link with) from
# Python wheels, and prints the environment of such a build. Needs no root, no GPU and no driver.
#
#     eval "$(scripts/cuda-toolkit.sh)"            # or with a folder of your choice as its argument
#     cargo build --release --features cuda
#
# It downloads about 0.8 GB once and keeps 1.2 GB; a later call only prints. To start over, delete the folder.
set -euo pipefail

wheels=(
  nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96
  nvidia-cuda-cccl==13.0.85 nvidia-cuda-nvrtc==13.0.88 nvidia-cublas==13.0.2.14 nvidia-curand==10.4.0.35
)
folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/mantissa/cuda-13.0}

# Everything that is missing, in one go: nobody likes to be told one thing at a time.
check_machine() {
  local missing=()
  [ "$(uname -s)" = Linux ] || missing+=('Linux: there are no such wheels for other systems')
  python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=('python3 with venv (Debian and Ubuntu: python3-venv)')
  # nvcc hands the host's part of a file to these.
  command -v gcc >/dev/null || missing+=('gcc')
  command -v g++ >/dev/null || missing+=('g++')
  command -v flock >/dev/null || missing+=('flock (util-linux)')
  if [ ${#missing[@]} -gt 0 ]; then
    echo 'cuda-toolkit: cannot install, this is missing:' >&2
    printf '  %s\n' "${missing[@]}" >&2
    exit 1
  fi
}

# Makes the toolkit in the folder $1. Nothing else looks there until it is whole.
install_into() {
  local part=$1 made=$1/wheels/nvidia/cu13 library
  python3 -m venv "$part/venv"
  "$part/venv/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir --no-deps --only-binary :all: \
    --target "$part/wheels" "${wheels[@]}" >&2
  # The wheels have only libNAME.so.VERSION; a linker looks for libNAME.so, and in lib64.
  for library in "$made"/lib/*.so.*; do
    ln -s "$(basename "$library")" "${library%%.so.*}.so" 2>/dev/null || true
  done
  ln -s lib "$made/lib64"
  # The driver's library is not among the wheels: it comes with the driver. To link, a stand-in will do in which every
  # function that the header names answers CUDA_ERROR_STUB_LIBRARY, as the one in NVIDIA's own toolkit does.
  mkdir "$made/lib/stubs"
  grep -oE '\bcu[A-Z][A-Za-z0-9_]*' "$made/include/cuda.h" | sort -u | sed 's/.*/int &(void) { return 34; }/' |
    gcc -w -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$made/lib/stubs/libcuda.so" -x c -
  "$made/bin/nvcc" --version >/dev/null
}

if [ ! -d "$folder" ]; then
  check_machine
  mkdir -p "$(dirname "$folder")"
  # One at a time: a second call waits, and then finds the work done. What an interrupted one left is thrown away.
  exec 9>"$folder.lock"
  flock 9
  if [ ! -d "$folder" ]; then
    part=$folder.part
    trap 'rm -rf "$part"; [ -d "$folder" ] || echo "cuda-toolkit: failed; nothing was left behind" >&2' EXIT
    rm -rf "$part"
    mkdir "$part"
    echo "cuda-toolkit: installing into $folder" >&2
    install_into "$part"
    mv "$part/wheels/nvidia/cu13" "$folder"
  fi
fi
if [ ! -x "$folder/bin/nvcc" ]; then
  echo "cuda-toolkit: $folder holds no CUDA toolkit; delete it or name another folder" >&2
  exit 1
fi

home=$(printf %q "$(cd "$folder" && pwd)")
# 80 is the oldest GPU with bf16; what is built for it runs on every later one. candle's kernels take minutes, and are
# compiled on half of the processors unless CUDAFORGE_THREADS says otherwise.
cat <<END
export CUDA_HOME=$home CUDA_PATH=$home
export PATH=$home/bin:\$PATH
export LD_LIBRARY_PATH=$home/lib\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}
export CUDA_COMPUTE_CAP=\${CUDA_COMPUTE_CAP:-80} CUDAFORGE_THREADS=\${CUDAFORGE_THREADS:-$(nproc)}
END
