#!/usr/bin/env bash
# All tests, after the same set-up that run_all.sh makes: lint, types, unit tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash setup.sh
workers=$(nproc) # before the next line: nproc believes OMP_NUM_THREADS
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
.venv/bin/ruff check .
.venv/bin/mypy env_construction reward serving train eval analysis
exec .venv/bin/python -m pytest tests --ignore=tests/benchmarks -n "$workers" --dist loadfile --no-loadscope-reorder "$@"
