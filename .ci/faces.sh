#!/usr/bin/env bash
# The environments as others use them: OpenEnv's and verifiers' own tools on our packages, TRL on our data, schemathesis on our HTTP.
# Their packages disagree with each other's and with ours, so each gets a virtual environment of its own (.ci/faces.txt).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

pins() { sed -n "s/^$1: //p" .ci/faces.txt; }
# an environment with pytest and a face's packages; what follows the name goes to pip as well
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
FTRL_OPENENV_PACKAGE="$work/openenv-package" "$work/openenv/bin/python" -m pytest -q tests/serving/trainers/test_openenv.py
FTRL_VERIFIERS_PACKAGE="$work/verifiers-package" "$work/verifiers/bin/python" -m pytest -q tests/serving/trainers/test_verifiers.py

# TRL takes what the project has pinned of torch, transformers and datasets, and adds itself
make_venv trl --no-deps
"$root/.venv/bin/python" -c 'import site; print(site.getsitepackages()[0])' >"$(echo "$work"/trl/lib/python3*/site-packages)/project.pth"
"$work/trl/bin/python" -m pytest -q tests/serving/trainers/test_trl.py

make_venv http
.venv/bin/python -m serving.serve --data "$work/environments.jsonl" --port 8766 --workers 1 &
server=$!
"$work/http/bin/schemathesis" run http://127.0.0.1:8766/openapi.json --wait-for-schema 60 --max-examples 50
echo "faces: passed"
