#!/usr/bin/env bash
# The whole experiment, in order; `bash run_all.sh --help` lists the options, `--dry-run` prints every command.
#
#   1. environments      build train, dev and test environments; each one is verified in the sandbox
#   2. start             get a policy to start from: the tiny one of assets/, a model of yours, or one that is taught first
#   3. measure_start     measure it on the test environments, between a random policy and the oracle
#   4. train             GRPO and REINFORCE++ with the FTRL reward on OpenRLHF; each epoch collects with the current policy
#   5. measure_trained   measure again: same code, same cases, paired differences
#   6. controls          alternatives with the same time: more supervised learning, rejection sampling, oracle demonstrations
#   7. restoration       put the start's weights back, part by part: where does the gain live?
#   8. analyse, report   tables, figures, and one page: outputs/<run>/report.html
#
#   bash run_all.sh                              the cpu profile: tiny models, no GPU, no model hub, no key
#   bash run_all.sh --profile smoke              the same path in minutes; its numbers mean nothing
#   bash run_all.sh --profile paper --dry-run    every command of the paper's twelve runs
#
# A second call repeats nothing that is finished; a call after a kill resumes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
bash setup.sh
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false
exec .venv/bin/python -m train.pipeline "$@"
