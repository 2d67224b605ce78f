#!/usr/bin/env bash
# Test the environments as others use them: the tools of OpenEnv and verifiers on our packages, TRL on our data,
# schemathesis on our HTTP server. Their packages conflict with each other and with ours, so each has a separate virtual
# environment (.ci/faces.txt).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

pins() { sed -n "s/^$1: //p" .ci/faces.txt; }
# make_venv NAME [PIP ARGUMENTS...]: a virtual environment with the packages of NAME in .ci/faces.txt
make_venv() {
  local name=$1
  shift
  python3 -m venv "$work/$name"
  # shellcheck disable=SC2046
  "$work/$name/bin/pip" install -q --disable-pip-version-check "$@" $(pins "$name")
}

PYTHONPATH=.:tests .venv/bin/python - "$work/environments.jsonl" <<'PYTHON'
import sys

from conftest import small_environments
from env_construction.environment.schema import write_environments

write_environments(sys.argv[1], small_environments())
PYTHON
for kind in openenv verifiers; do
  .venv/bin/python -m serving.export --to "$kind" --data "$work/environments.jsonl" --out "$work/$kind-package"
  cp -r "$work/$kind-package" "$work/$kind-source" # pip builds in the folder that it installs
  make_venv "$kind" pytest==9.2.0 "$work/$kind-source"
done
FTRL_OPENENV_PACKAGE="$work/openenv-package" \
  "$work/openenv/bin/python" -m pytest -q tests/serving/trainers/test_openenv.py
FTRL_VERIFIERS_PACKAGE="$work/verifiers-package" \
  "$work/verifiers/bin/python" -m pytest -q tests/serving/trainers/test_verifiers.py

# TRL uses the project's pinned torch, transformers and datasets
make_venv trl --no-deps
packages=$(echo "$work"/trl/lib/python3*/site-packages)
"$root/.venv/bin/python" -c 'import site; print(site.getsitepackages()[0])' >"$packages/project.pth"
"$work/trl/bin/python" -m pytest -q tests/serving/trainers/test_trl.py

make_venv http
.venv/bin/python -m serving.serve --data "$work/environments.jsonl" --port 8766 --workers 1 &
server=$!
"$work/http/bin/schemathesis" run http://127.0.0.1:8766/openapi.json --wait-for-schema 60 --max-examples 50
echo "faces: passed"
