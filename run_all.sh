#!/usr/bin/env bash
# The whole experiment, in order: environments -> a policy to start from -> measure -> train with GRPO and with REINFORCE++
# -> measure again -> analyse -> report. Every stage can be resumed: a second call redoes nothing, a call after a kill goes on.
#
#   bash run_all.sh                                    the cpu profile: a tiny model, no GPU, no model hub, no key
#   bash run_all.sh --profile smoke                    the same path in minutes; its numbers mean nothing
#   bash run_all.sh --profile paper --dry-run          every command of the paper's twelve runs, nothing is run
#   bash run_all.sh --experiment tiny-plain-grpo-solve-recall      one row of `python -m train.experiments`; what the run folder
#                                                      holds already (environments, start, its measurement) is used again
#   bash run_all.sh --profile paper --data published   train and test on the authors' environments (python -m eval.download environments)
#   bash run_all.sh --profile small --gpus 0           on other GPUs than a profile's own; 0: on the CPU, slowly
#   bash run_all.sh --profile small --experiment qwen2.5-1.5b-plain-grpo       a model up to 3B on one GPU; -lora up to 8B
#   bash run_all.sh --profile small --model PATH       start from a model of your own (a checkpoint folder, or a name on the hub)
#   bash run_all.sh --run mine --teach MODEL           teach a pretrained model on oracle trajectories first, and start from that
#   bash run_all.sh --run smollm2-hour --experiment smollm2-135m-cpu-plain-grpo    SmolLM2 from the hub, taught, then an hour of GRPO
#   bash run_all.sh --only report | --from analyse     one stage, or all from one on (stages: see STAGES)
#   bash run_all.sh --controls                         also: more supervised learning, and RL with shuffled rewards
#   bash run_all.sh --train-seed 1                     the trainings once more with another seed; environments and start stay
#   bash run_all.sh --profile paper --nodes 2 --ray-address http://HEAD:8265    train on a Ray cluster (examples/slurm/two_nodes.sbatch)
#   bash run_all.sh --profile paper --keep-checkpoints keep the weights of every epoch (default: of the last one)
#   bash run_all.sh --from-scratch                     make the tiny policy anew instead of taking assets/tiny_policy
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

STAGES="setup environments start measure_start train measure_trained controls analyse report"
PROFILES="smoke cpu small paper"

profile=cpu run= only= from= seed=0 dry_run= controls= experiments= from_scratch= train_seed=0 data=built data_file= gpus= model= teach= keep_checkpoints= nodes= ray_address=
fail() { echo "run_all: error: $*" >&2; exit 2; }
has() { case " $1 " in *" $2 "*) return 0 ;; *) return 1 ;; esac; }
while [ $# -gt 0 ]; do
    case "$1" in
        --profile) profile=${2:-}; shift 2 ;;
        --run) run=${2:-}; shift 2 ;;
        --only) only=${2:-}; shift 2 ;;
        --from) from=${2:-}; shift 2 ;;
        --seed) seed=${2:-}; shift 2 ;;
        --experiment) experiments=${2:-}; shift 2 ;;
        --train-seed) train_seed=${2:-}; shift 2 ;;
        --model) model=${2:-}; shift 2 ;;
        --teach) teach=${2:-}; shift 2 ;;
        --gpus) gpus=${2:-}; shift 2 ;;
        --data) data=${2:-}; shift 2 ;;
        --data-file) data=published data_file=${2:-}; shift 2 ;;
        --controls) controls=1; shift ;;
        --nodes) nodes=${2:-}; shift 2 ;;
        --ray-address) ray_address=${2:-}; shift 2 ;;
        --keep-checkpoints) keep_checkpoints=1; shift ;;
        --from-scratch) from_scratch=1; shift ;;
        --dry-run) dry_run=1; shift ;;
        -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) fail "unknown option '$1'; valid: --profile --run --only --from --seed --experiment --model --teach --gpus --data --data-file --train-seed --controls --nodes --ray-address --keep-checkpoints --from-scratch --dry-run" ;;
    esac
done
has "$PROFILES" "$profile" || fail "unknown profile '$profile'; valid: $PROFILES"
has "built published" "$data" || fail "unknown data '$data'; valid: built published"
[ -z "$only" ] || has "$STAGES" "$only" || fail "unknown stage '$only'; valid: $STAGES"
[ -z "$from" ] || has "$STAGES" "$from" || fail "unknown stage '$from'; valid: $STAGES"
case "$gpus$nodes" in *[!0-9]*) fail "--gpus '$gpus', --nodes '$nodes': expected whole numbers" ;; esac
case "$seed$train_seed" in '' | *[!0-9]*) fail "--seed '$seed', --train-seed '$train_seed': expected whole numbers" ;; esac
[ -z "$model" ] || [ -z "$teach" ] || fail "--model starts from a model as it is, --teach teaches one first: expected one of them"
out=outputs/${run:-$profile}

# --- sizes: this is all that differs between the profiles -------------------------------------------------------------
epochs=2 level=compact backend=hf start_from= eval_limit=100 at_once=1
case "$profile" in
    smoke)
        n_train=200 n_dev=12 n_test=16 warm_minutes=1.5 collect=16 max_prompts=32 max_prompt_tokens=640 rollout_batch=16 max_new_tokens=96
        : "${experiments:=tiny-plain-grpo}"
        ;;
    cpu)
        n_train=2000 n_dev=60 n_test=300 eval_limit=300 warm_minutes=20 collect=240 max_prompts=384 max_prompt_tokens=640 rollout_batch=16 max_new_tokens=96 at_once=2
        : "${experiments:=tiny-plain-grpo tiny-plain-reinforce++}"
        ;;
    small)
        n_train=2000 n_dev=100 n_test=200 max_prompts=1024 collect=1000 max_prompt_tokens=2048 rollout_batch=64 max_new_tokens=256
        level=medium backend=vllm start_from=matrix eval_limit=200
        if [ -n "$model" ]; then : "${experiments:=own-plain-grpo own-plain-reinforce++}"; fi
        : "${experiments:=smollm2-135m-plain-grpo smollm2-135m-plain-reinforce++}"
        case "$experiments" in
            smollm2-*) if [ -z "$model" ]; then teach=${teach:-HuggingFaceTB/SmolLM2-135M-Instruct}; fi ;; # it knows no tools: reward is near 0 untaught
            *-lora*) max_prompt_tokens=1280 max_new_tokens=384 ;;                                     # lengths of ADAPTERS and ONE_GPU in train/experiments.py
            *) max_prompt_tokens=4096 max_new_tokens=512 ;;
        esac
        ;;
    paper)
        n_train=2215 n_dev=200 n_test=200 max_prompts=100000 collect=2215 max_prompt_tokens=16384 rollout_batch=512 max_new_tokens=1024
        level=paper backend=vllm start_from=matrix epochs=3 eval_limit=200
        : "${experiments:=qwen2.5-7b-plain-grpo qwen2.5-7b-plain-reinforce++ qwen2.5-14b-plain-grpo qwen2.5-14b-plain-reinforce++ qwen3-8b-plain-grpo qwen3-8b-plain-reinforce++ qwen3-8b-thinking-grpo qwen3-8b-thinking-reinforce++ qwen3-14b-plain-grpo qwen3-14b-plain-reinforce++ qwen3-14b-thinking-grpo qwen3-14b-thinking-reinforce++}"
        ;;
esac
case "$experiments" in
    smollm2-135m-cpu-*) # its tokenizer was not made for these texts: a turn has up to 132 tokens, its prompt over 640; 16 steps of four to six minutes
        epochs=1 collect=60 max_prompts=128 eval_limit=200 max_prompt_tokens=1024 max_new_tokens=192
        if [ -z "$model" ]; then teach=${teach:-HuggingFaceTB/SmolLM2-135M-Instruct}; fi
        ;;
esac
if [ "$gpus" = 0 ]; then backend=hf; fi
case "$model:$experiments" in :own-* | :*" own-"*) fail "$experiments: which model? --model PATH" ;; esac
start_from=${model:-$start_from} lesson=()
if [ -n "$teach" ]; then
    start_from= warm_minutes=26
    lesson=(--oracle --optimizer adamw --learning-rate 5e-4 --rename-share 0 --copy-share 0 --evaluate-every 1300 --dev-cases 12)
elif [ -z "$start_from" ]; then
    case "$experiments" in smollm2-* | qwen* | own-*) fail "$experiments: start from which model? --model, --teach, or --profile small or paper" ;; esac
fi
if [ -n "$from_scratch" ]; then n_train=$((n_train * 8)); fi # a policy is made from more environments than one is trained in
environments=$out/environments

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
python=.venv/bin/python

# --- running: print the command, run it with its log, say how it ended ---------------------------------------------------
step() { # step LOG COMMAND...
    local log=$out/logs/$1.log
    shift
    echo "  \$ ${*/#$python/python}"
    [ -z "$dry_run" ] || return 0
    mkdir -p "$(dirname "$log")"
    if ! "$@" 2>&1 | tee -a "$log" | tagged; then
        echo "run_all: error: the command above failed; its log is $log, its last lines:" >&2
        tail -n 15 "$log" >&2
        exit 1
    fi
}
tagged() { # what runs beside others: only whole lines, each with its tag
    if [ -n "$tag" ]; then sed -u "s/.*\r//; s/^/$tag/"; else cat; fi
}
seen_from='' ran='' tag='' running=''
stage() { # stage NAME WHAT IT DOES; false where it is not asked for or was done
    local name=$1
    [ "$name" != "$from" ] || seen_from=1
    if [ -n "$only" ] && [ "$name" != "$only" ]; then return 1; fi
    if [ -n "$from" ] && [ -z "$seen_from" ]; then return 1; fi
    current=$name began=$SECONDS
    # Tables and report are made anew whenever an earlier stage did something.
    if has "analyse report" "$name" && [ -n "$ran" ]; then :; elif [ -z "$dry_run$only$from" ] && grep -qsF "$(mark)" "$out/stages.jsonl"; then
        echo "== $name: done already"
        return 1
    fi
    echo "== $name: $2"
}
mark() { # how stages.jsonl names a stage that is done: from training on, for which experiments
    printf '"stage": "%s"' "$current"
    if has "train measure_trained controls" "$current"; then printf ', "experiments": "%s", "train_seed": %d' "$experiments" "$train_seed"; fi
}
finish() { # finish WHAT WAS WRITTEN
    [ -z "$dry_run" ] || return 0
    [ "$current" = setup ] || ran=1
    printf '{%s, "seconds": %d, "finished": "%s"}\n' "$(mark)" $((SECONDS - began)) "$(date -u +%Y-%m-%dT%H:%M:%SZ)" >>"$out/stages.jsonl"
    echo "== $current: $((SECONDS - began)) s -> $1"
}

turn_tokens() { if [ -n "$1" ] && [ "$profile" = small ]; then echo 2048; elif [ -n "$1" ]; then echo 8192; else echo "$max_new_tokens"; fi; } # a turn with thinking is longer
measure() { # measure NAME POLICY: greedy, at most 20 turns, on the test environments
    step "measure_$1" $python -m eval.environments --policy "$2" --data "$environments/test.jsonl" --out "$out/eval/$1" \
        --limit "$eval_limit" --seed "$seed" --max-turns 20 --max-new-tokens "$(turn_tokens "${3:-}")" ${3:+"$3"}
}
short_name() { # tiny-plain-grpo -> grpo (where one model is trained); the whole name in the paper profile; grpo-seed1
    local name=$1
    if [ "$profile" != paper ]; then name=${name#*-plain-} name=${name#*-thinking-}; fi
    if [ "$train_seed" != 0 ]; then name=$name-seed$train_seed; fi
    echo "$name"
}
start_of() { # the untrained policy of an experiment
    if [ -z "$start_from" ]; then echo "$out/start"; return; fi
    if [ "$start_from" != matrix ]; then echo "$start_from"; return; fi
    case "$1" in
        smollm2-*) echo HuggingFaceTB/SmolLM2-135M-Instruct ;;
        qwen2.5-0.5b-*) echo Qwen/Qwen2.5-0.5B-Instruct ;; qwen2.5-1.5b-*) echo Qwen/Qwen2.5-1.5B-Instruct ;; qwen2.5-3b-*) echo Qwen/Qwen2.5-3B-Instruct ;;
        qwen3-0.6b-*) echo Qwen/Qwen3-0.6B ;; qwen3-1.7b-*) echo Qwen/Qwen3-1.7B ;; qwen3.5-4b-*) echo Qwen/Qwen3.5-4B ;; qwen3.5-9b-*) echo Qwen/Qwen3.5-9B ;;
        qwen2.5-7b-*) echo Qwen/Qwen2.5-7B-Instruct ;; qwen2.5-14b-*) echo Qwen/Qwen2.5-14B-Instruct ;;
        qwen3-4b-*) echo Qwen/Qwen3-4B ;; qwen3-8b-*) echo Qwen/Qwen3-8B ;; qwen3-14b-*) echo Qwen/Qwen3-14B ;;
    esac
}
start_name() { # under which name the untrained policy of an experiment is measured
    if [ "$profile" = paper ]; then sed -E 's/-(plain|thinking)-.*/-\1/' <<<"$1"; else echo start; fi
}
model_of() { sed -E 's/-(plain|thinking)-.*//' <<<"${1%% *}"; }
at_the_end() { for process in $running; do kill -- -"$process" 2>/dev/null || true; done; }
trap at_the_end EXIT
settle() { for process in $running; do wait "$process" || exit 1; done; running=; } # one that failed ends all
thinking_of() { case "$1" in *-thinking-*) echo --thinking ;; *) echo ;; esac; }

environments_of() { # the train environments of an experiment: a construction ablation has its own
    case "$1" in *-no-*) echo "$environments-no-${1##*-no-}" ;; *) echo "$environments" ;; esac
}
build_ablation() { # those of a construction ablation, built without its strategy; before trainings run side by side and share them
    local without=${1##*-no-}
    [ "$without" != "$1" ] || return 0
    step "environments_$without" $python -m env_construction.build --author facts --level "$level" --n-train "$n_train" --n-dev 0 \
        --n-test 0 --seed "$seed" --workers 2 --without "${without//-/_}" --out "$(environments_of "$1")"
}
train_one() { # train_one EXPERIMENT NAME: per epoch collect with the current policy, make prompts, train
    local experiment=$1 name=$2 policy thinking epoch folder train_file shared
    policy=$(start_of "$experiment") thinking=$(thinking_of "$experiment")
    train_file=$(environments_of "$experiment")/train.jsonl
    for epoch in $(seq 1 "$epochs"); do
        folder=$out/train/$name/epoch$epoch
        shared="--max-prompt-tokens $max_prompt_tokens --seed $((seed + 100 * train_seed + epoch)) $thinking"
        case "$experiment" in
            *-episode* | *-outcome*) # whole episodes are played while training: their prompts are the bare questions
                step "train_$name" $python -m train.rl_prompts --environments "$train_file" --tokenizer "$policy" \
                    --out "$folder/prompts.jsonl" --rollout-batch "$rollout_batch" --max-prompts "$max_prompts" $shared
                ;;
            *)
                step "train_$name" $python -m train.collect_trajectories --environments "$train_file" --limit "$collect" \
                    --policy "$backend:$policy" --out "$folder" --temperature 1.0 --max-turns 20 --max-new-tokens "$(turn_tokens "$thinking")" $shared
                step "train_$name" $python -m train.rl_prompts --trajectories "$folder/trajectories.jsonl" --tokenizer "$policy" \
                    --out "$folder/prompts.jsonl" --rollout-batch "$rollout_batch" --max-prompts "$max_prompts" $shared
                ;;
        esac
        step "train_$name" $python -m train.run_openrlhf --experiment "$experiment" --policy-dir "$policy" \
            --prompts "$folder/prompts.jsonl" --out "$folder" --seed $((seed + 100 * train_seed + epoch)) --epoch "$epoch" \
            ${gpus:+--gpus "$gpus"} ${nodes:+--nodes "$nodes"} ${ray_address:+--ray-address "$ray_address"}
        policy=$folder/checkpoint
        case "$profile$keep_checkpoints" in
            small | paper) if [ "$epoch" -gt 1 ]; then step "train_$name" $python -m train.prune_checkpoints "$out/train/$name"; fi ;;
        esac
    done
}
train_minutes() { # what the trainings of these experiments took, in minutes of wall time
    { grep -sF "$(current=train; mark)" "$out/stages.jsonl" || true; } | sed 's/.*"seconds": \([0-9]*\).*/\1/' | awk '{ s += $1 } END { print (s ? s / 60 : 10) }'
}

train() { # as train_one; a training keeps one core busy, so on a CPU $at_once of them go side by side, each in a process group
    if [ "$at_once" = 1 ] || [ -n "$dry_run" ]; then train_one "$@"; return; fi
    set -m
    (running='' tag="[$2] " && train_one "$@") &
    set +m
    running="$running $!"
    if [ "$(wc -w <<<"$running")" -ge "$at_once" ]; then settle; fi
}

# --- the experiment --------------------------------------------------------------------------------------------------------
if stage setup "make .venv with pinned versions (nothing to do the second time)"; then
    echo "  \$ bash setup.sh"
    [ -n "$dry_run" ] || { bash setup.sh; mkdir -p "$out"; }
    finish .venv
fi
if [ -z "$dry_run" ]; then
    mkdir -p "$out"
    for experiment in $experiments; do # an unknown name is refused before anything is written
        $python -m train.run_openrlhf --experiment "$experiment" --policy-dir "${model:-start}" --prompts prompts.jsonl --out . --dry-run >/dev/null
    done
    $python -m env_construction.jsonl "$out" profile="$profile" seed="$seed" model="$(model_of "$experiments")" from_scratch="${from_scratch:-0}" data="$data" ${model:+start="$model"} ${teach:+teach="$teach"}
fi

if [ "$data" = published ] && stage environments "take the authors' train and test environments"; then
    step environments $python -m train.published_data ${data_file:+--data-file "$data_file"} --out "$environments/train.jsonl"
    step environments $python -m train.published_data --split test --out "$environments/test.jsonl"
    finish "$environments"
fi
if [ "$data" = built ] && stage environments "build $n_train train, $n_dev dev and $n_test test environments from real facts; each is verified in the sandbox"; then
    step environments $python -m env_construction.build --author facts --level "$level" --n-train "$n_train" --n-dev "$n_dev" \
        --n-test "$n_test" --seed "$seed" --workers 2 --out "$environments"
    finish "$environments"
fi

if stage start "get a policy to start from"; then
    if [ -n "$start_from" ]; then
        echo "  it comes trained: ${model:-the models of $experiments}"
    elif [ -z "$teach$from_scratch" ]; then
        step start cp -R assets/tiny_policy/. "$out/start"
    else
        step start ${teach:+env OMP_NUM_THREADS=2} $python -m train.warm_start --environments "$environments/train.jsonl" \
            --dev "$environments/dev.jsonl" --out "$out/start" ${teach:+--continue-from "$teach"} --seed "$seed" --minutes "$warm_minutes" "${lesson[@]}"
    fi
    finish "$out/start"
fi

if stage measure_start "measure the floor (random), the ceiling (oracle) and the start on the test environments"; then
    measure random random
    if [ "$data" = built ]; then measure oracle oracle; fi # the published environments have no gold plan
    starts=
    for experiment in $experiments; do
        policy=$(start_of "$experiment") name=$(start_name "$experiment")
        has "$starts" "$name" || measure "$name" "$backend:$policy" "$(thinking_of "$experiment")"
        starts="$starts $name"
    done
    finish "$out/eval"
fi

if stage train "reinforcement learning with the FTRL reward on OpenRLHF, $epochs epochs each: $experiments"; then
    for experiment in $experiments; do build_ablation "$experiment"; done
    for experiment in $experiments; do train "$experiment" "$(short_name "$experiment")"; done
    settle
    finish "$out/train"
fi

if stage measure_trained "measure again: same code, same cases, paired differences"; then
    for experiment in $experiments; do
        name=$(short_name "$experiment") start=$(start_name "$experiment")
        measure "$name" "$backend:$out/train/$name/epoch$epochs/checkpoint" "$(thinking_of "$experiment")"
        step measure_trained $python -m eval.compare "$out/eval/$start" "$out/eval/$name" --out "$out/compare/${name}_vs_start.json"
    done
    finish "$out/eval, $out/compare"
fi

if [ -n "$controls" ] && stage controls "more supervised learning for the same time, and RL with shuffled rewards: neither should gain as much"; then
    first=${experiments%% *}
    shuffled=$(short_name "$first-shuffled") start=$(start_name "$first")
    compared=$shuffled
    train "$first-shuffled" "$shuffled"
    if [ -z "$start_from" ] && [ "$train_seed" = 0 ]; then # supervised learning knows no training seed
        compared="more-supervised $shuffled"
        step controls $python -m train.warm_start --environments "$environments/train.jsonl" --dev "$environments/dev.jsonl" \
            --out "$out/more-supervised" --continue-from "$out/start" --seed $((seed + 1)) --minutes "$(train_minutes)" "${lesson[@]}"
        measure more-supervised "$backend:$out/more-supervised"
    fi
    settle
    measure "$shuffled" "$backend:$out/train/$shuffled/epoch$epochs/checkpoint" "$(thinking_of "$first")"
    for name in $compared; do
        step controls $python -m eval.compare "$out/eval/$start" "$out/eval/$name" --out "$out/compare/${name}_vs_start.json"
    done
    finish "$out/compare"
fi

if stage analyse "tables and figures of everything for which data is there"; then
    step analyse $python -m analysis.all "$out"
    finish "$out/analysis"
fi

if stage report "manifest and one self-contained page"; then
    step report $python -m analysis.manifest "$out" --set "profile=$profile" --set "seed=$seed"
    step report $python -m analysis.report "$out"
    finish "$out/report.html"
fi
