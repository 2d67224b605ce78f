#!/usr/bin/env bash
# Tests the released packages of other servers and trainers on what we serve and export. Each package has a separate
# virtual environment, because their dependencies conflict with each other and with ours. .ci/faces.txt lists them.
#
#   bash .ci/faces.sh                 all packages, on all cores; prints the seconds of each
#   bash .ci/faces.sh verl trl        only these packages
#
# For speed, uv links packages from its cache, which setup.sh has filled. openenv, verifiers and http need no torch and get
# all of their dependencies. The others use the project's torch, transformers and ray (a .pth file points to .venv) and
# install only what is missing there. Their own code is the release; the versions of their dependencies may differ from
# their pins.
# Not tested: the GPU training loops of verl, Axolotl and LLaMA-Factory. TRL's loop runs on the tiny policy.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD work=$(mktemp -d) uv=$PWD/.venv/bin/uv
trap 'rm -rf "$work"' EXIT
export root work uv OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 HF_HOME=$work/hub DISABLE_VERSION_CHECK=1

# uv does not read pip's configuration, which names the package index; setup.sh passes it to uv in the same way
configured() { printenv "PIP_$(tr 'a-z-' 'A-Z_' <<<"$1")" || .venv/bin/python -m pip config get "global.$1" 2>/dev/null | tr '\n' ' ' || true; }
index=$(configured index-url) extra=$(configured extra-index-url)
export UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match} UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180}
[ -z "$index" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}
[ -z "$extra" ] || export UV_EXTRA_INDEX_URL=${UV_EXTRA_INDEX_URL:-$extra}

pins() { sed -n "s/^$1: //p" .ci/faces.txt; }
install_face() { # install_face NAME [uv options and more packages]
    local name=$1
    shift
    "$uv" venv --quiet --python "$root/.venv/bin/python" "$work/$name"
    # shellcheck disable=SC2046
    "$uv" pip install --quiet --python "$work/$name/bin/python" "$@" $(pins "$name")
}
face() { # face NAME: install the package and run its test
    local name=$1 server port
    case "$name" in
        openenv | verifiers)
            .venv/bin/python -m serving.export --to "$name" --data "$work/environments.jsonl" --out "$work/$name-package"
            cp -r "$work/$name-package" "$work/$name-source" # a copy, because the build leaves files in the source folder
            install_face "$name" pytest==9.2.0 "$work/$name-source"
            export "FTRL_${name^^}_PACKAGE=$work/$name-package"
            ;;
        http)
            install_face "$name"
            port=$(.venv/bin/python -c 'import socket; probe = socket.create_server(("127.0.0.1", 0)); print(probe.getsockname()[1])')
            .venv/bin/python -m serving.serve --data "$work/environments.jsonl" --port "$port" --workers 1 &
            server=$!
            # shellcheck disable=SC2064
            trap "kill $server" EXIT
            cd "$work" # schemathesis leaves a cache in the working directory
            "$work/http/bin/schemathesis" run "http://127.0.0.1:$port/openapi.json" --wait-for-schema 120 --max-examples 50
            return
            ;;
        *)
            install_face "$name" --no-deps
            .venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$(echo "$work/$name"/lib/python3*/site-packages)/project.pth"
            ;;
    esac
    "$work/$name/bin/python" -m pytest "tests/serving/trainers/test_$name.py"
}
timed_face() {
    local name=$1 log=$work/$1.log code=0
    SECONDS=0
    bash -c 'set -euo pipefail; face "$1"' face "$name" >"$log" 2>&1 || code=$? # "set -e" works only in a separate process
    if [ "$code" = 0 ]; then tail -n 1 "$log"; else cat "$log"; fi
    printf 'faces: %4d s  %s%s\n' "$SECONDS" "$name" "$([ "$code" = 0 ] || echo ' (failed)')"
    return "$code"
}
export -f pins install_face face timed_face

faces=("$@")
[ $# -gt 0 ] || mapfile -t faces < <(sed -n 's/^\([a-z_]*\): .*/\1/p' .ci/faces.txt)
for name in "${faces[@]}"; do
    [ -n "$(pins "$name")" ] || { echo "faces: error: unknown face '$name'; .ci/faces.txt lists all" >&2; exit 2; }
done
PYTHONPATH=.:tests .venv/bin/python - "$work/environments.jsonl" <<'PYTHON'
import sys

from conftest import small_environments
from env_construction.environment.schema import write_environments

write_environments(sys.argv[1], small_environments())
PYTHON
printf '%s\n' "${faces[@]}" | xargs -P "$(env -u OMP_NUM_THREADS nproc)" -I{} bash -c 'timed_face {}'
