"""The experiment matrix. The name of an experiment determines all of its settings.

    <model>-<plain|thinking>-<algorithm>[-<ablation>...]    e.g. qwen3-8b-thinking-grpo, tiny-plain-reinforce++-strict

`python -m train.experiments` lists all experiments with estimates of their cost; `--json` prints JSON. The paper's
twelve runs are {qwen2.5-7b, qwen2.5-14b}-plain and {qwen3-8b, qwen3-14b}-{plain, thinking}, each with grpo and
reinforce++. Extensions:

| ablation | what is trained |
| --- | --- |
| `-episode` | complete episodes, played online; reward: sum over turns / (n + 1) (reward/episode_rewards.py) |
| `-episode-credit-<row>` | the same with one advantage per turn: a row of reward/credit.py, such as `matchtir-hard` |
| `-outcome` | complete episodes; reward 1 for a correct final answer: the "outcome GRPO" of later papers (Qwen3-8B) |
| `-outcome-f1` | complete episodes; reward: the episode's Solve-F1 |
| `-lora` | adapters instead of all weights, on one GPU; merged into a full checkpoint after each epoch |

Models from 0.5B to 3B train on one GPU. `own-...` is a row for any other causal model: `experiment("own-plain-grpo",
policy)` reads the shape from the model's configuration (run_all.sh --model).

Qwen3.5 (`qwen3.5-4b`, `qwen3.5-9b`) is a hybrid: three of four layers use linear attention with a recurrent state. Its
shapes come from published training scripts. The pinned transformers and vLLM support the architecture, but the
linear-attention layers of transformers mix packed sequences. These rows therefore train one sequence at a time. They
have not been run.

Rows of paper/README.md, "Who uses it now": FTRL-GRPO is qwen3-8b-plain-grpo, outcome GRPO is
qwen3-8b-plain-grpo-outcome. MatchTIR's two rows are qwen3-8b-thinking-grpo-episode-credit-matchtir-hard and -soft.
TurnSight's row ends in -episode-credit-turnsight. Hyperparameters: paper section "Training" (paper/README.md);
`train/trainer/openrlhf_command.py` turns them into flags.

Example: python -m train.experiments --json
"""

from __future__ import annotations

import difflib
import itertools
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, run_main
from reward.credit import CREDITS


@dataclass(frozen=True)
class Model:
    """A start model: its shape, from the published configuration, and how many GPUs a run uses.

    `start`: hub name, empty if the run trains its own start policy. `thinking`: whether it has a thinking mode.
    Hybrids: `linear_layers` of the `layers` use linear attention, with projections of `linear_columns` columns in
    total. `gated`: the other layers have an output gate as wide as the queries.
    """

    name: str
    start: str
    thinking: bool
    gpus: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    vocabulary: int
    tied: bool = False
    linear_layers: int = 0
    linear_columns: int = 0
    gated: bool = False
    untaught: bool = False
    """It was not trained to use tools: without supervised learning first, its rewards are near zero."""

    @property
    def parameters(self) -> float:
        """In millions, without norms and biases."""
        attention = self.head_width * ((3 if self.gated else 2) * self.heads + 2 * self.kv_heads)
        mixing = (self.layers - self.linear_layers) * attention + self.linear_layers * self.linear_columns
        embeddings = self.vocabulary * (1 if self.tied else 2)
        return self.width * (embeddings + mixing + self.layers * 3 * self.mlp_width) / 1e6


@dataclass(frozen=True)
class Scale:
    """Sizes of a run. Lengths are in tokens, `rollout_batch` in prompts, `train_batch` in samples.

    `token_budget`: on GPUs that pack sequences, the token limit of a micro-batch, which replaces `micro_batch`
    sequences. It equals the tokens of `micro_batch` sequences of full length, so the peak memory is the same. 0: off.
    """

    rollout_batch: int
    samples_per_prompt: int
    train_batch: int
    micro_batch: int
    learning_rate: float
    max_prompt: int
    max_response: int
    epochs: int
    token_budget: int = 0


SMOLLM2 = Model(
    "smollm2-135m",
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    False,
    1,
    30,
    576,
    9,
    3,
    64,
    1536,
    49152,
    tied=True,
    untaught=True,
)
# 24 of 32 layers are linear, with 16 key and 32 value heads of width 128. Columns: query and key, value, gate, output,
# and two numbers per head.
QWEN35 = (24, 2 * 2048 + 4096 + 4096 + 4096 + 2 * 32, True)
MODELS = {
    model.name: model
    for model in (
        Model("tiny", "", True, 0, 8, 96, 4, 2, 32, 256, 2048, tied=True),
        Model("mini", "", True, 0, 10, 128, 4, 2, 32, 384, 2048, tied=True),
        SMOLLM2,
        replace(SMOLLM2, name="smollm2-135m-cpu", gpus=0),
        Model("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B-Instruct", False, 1, 24, 896, 14, 2, 64, 4864, 151936, tied=True),
        Model("qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B-Instruct", False, 1, 28, 1536, 12, 2, 128, 8960, 151936, tied=True),
        Model("qwen2.5-3b", "Qwen/Qwen2.5-3B-Instruct", False, 1, 36, 2048, 16, 2, 128, 11008, 151936, tied=True),
        Model("qwen3-0.6b", "Qwen/Qwen3-0.6B", True, 1, 28, 1024, 16, 8, 128, 3072, 151936, tied=True),
        Model("qwen3-1.7b", "Qwen/Qwen3-1.7B", True, 1, 28, 2048, 16, 8, 128, 6144, 151936, tied=True),
        Model("qwen2.5-7b", "Qwen/Qwen2.5-7B-Instruct", False, 8, 28, 3584, 28, 4, 128, 18944, 152064),
        Model("qwen2.5-14b", "Qwen/Qwen2.5-14B-Instruct", False, 8, 48, 5120, 40, 8, 128, 13824, 152064),
        Model("qwen3-4b", "Qwen/Qwen3-4B", True, 8, 36, 2560, 32, 8, 128, 9728, 151936, tied=True),
        Model("qwen3-8b", "Qwen/Qwen3-8B", True, 8, 36, 4096, 32, 8, 128, 12288, 151936),
        Model("qwen3-14b", "Qwen/Qwen3-14B", True, 8, 40, 5120, 40, 8, 128, 17408, 151936),
        Model("qwen3.5-4b", "Qwen/Qwen3.5-4B", True, 8, 32, 2560, 16, 4, 256, 9216, 248320, True, *QWEN35),
        Model("qwen3.5-9b", "Qwen/Qwen3.5-9B", True, 8, 32, 4096, 16, 4, 256, 12288, 248320, False, *QWEN35),
    )
}

# OpenRLHF's flags per algorithm. They follow and override the shared flags (train/trainer/openrlhf_command.py).
# Dr. GRPO (arXiv 2503.20783) drops the division by each response's length; OpenRLHF's token mean is the closest option.
# GSPO (arXiv 2507.18071) clips the ratio of complete sequences, whose spread is a thousand times smaller.
ALGORITHMS: dict[str, list[str]] = {
    "grpo": ["--algo.advantage.estimator", "group_norm"],
    "reinforce++": ["--algo.advantage.estimator", "reinforce"],
    "reinforce++-baseline": ["--algo.advantage.estimator", "reinforce_baseline"],
    "rloo": ["--algo.advantage.estimator", "rloo"],
    "dr-grpo": ["--algo.advantage.estimator", "dr_grpo", "--actor.loss_agg_mode", "token-mean"],
    "gspo": [
        "--algo.advantage.estimator", "group_norm",
        "--actor.policy_loss_type", "gspo", "--actor.eps_clip_low_high", "3e-4", "4e-4",
    ],
    "ppo": ["--algo.advantage.estimator", "gae"],
}  # fmt: skip

# What an ablation changes: the reward's variant or matching, the control, the reward of complete episodes, the trained
# weights, or the omitted construction strategy.
ABLATIONS: dict[str, dict[str, str]] = {
    "solve-precision": {"variant": "solve_precision"},
    "solve-recall": {"variant": "solve_recall"},
    "solve-pr": {"variant": "solve_pr"},
    "stop-penalty": {"variant": "solve_f1_stop_penalty"},
    "strict": {"match": "strict"},
    "shuffled": {"control": "shuffled"},
    "constant": {"control": "constant"},
    "episode": {"episode": "turns"},
    **{f"episode-credit-{name}": {"episode": "turns", "credit": name} for name in CREDITS if name != "outcome"},
    "outcome": {"episode": "answer"},
    "outcome-f1": {"episode": "solve_f1"},
    "lora": {"adapter": "lora"},
    "no-functional-generalization": {"without": "functional_generalization"},
    "no-parameter-expansion": {"without": "parameter_expansion"},
    "no-parameter-type-generalization": {"without": "parameter_type_generalization"},
    "no-toolset-extension": {"without": "toolset_extension"},
}

PAPER_MODELS = ("qwen2.5-7b", "qwen2.5-14b", "qwen3-8b", "qwen3-14b")
PAPER_ALGORITHMS = ("grpo", "reinforce++")
PAPER = Scale(512, 16, 512, 1, 1e-6, 16384, 1024, 3, token_budget=16384 + 1024)
PAPER_THINKING = Scale(512, 16, 512, 1, 1e-6, 16384, 8192, 3, token_budget=16384 + 8192)
ONE_GPU = Scale(64, 8, 128, 1, 1e-6, 4096, 512, 2, token_budget=4096 + 512)
ONE_GPU_THINKING = Scale(64, 8, 128, 1, 1e-6, 4096, 2048, 2, token_budget=4096 + 2048)
ADAPTERS = Scale(64, 8, 128, 1, 1e-6, 1280, 384, 2)  # lengths that fit into 24 GB together with 8B parameters
ADAPTERS_THINKING = Scale(64, 8, 128, 1, 1e-6, 4096, 2048, 2)
SMALL = Scale(64, 8, 128, 8, 5e-6, 2048, 256, 2, token_budget=8 * (2048 + 256))
SMALL_ON_CPU = Scale(8, 4, 16, 1, 2e-5, 1024, 192, 1)
# All prompts of demonstrators fit (the longest of 150 dev environments: 673 tokens plain, 808 thinking), and 99% of
# their turns.
TINY = Scale(16, 8, 32, 16, 1e-4, 704, 128, 2)
TINY_THINKING = replace(TINY, max_prompt=832, max_response=192)
# REINFORCE++ compares a response with all others of the batch, not only with those to the same prompt. Its gradient is
# therefore noisier, and at GRPO's rate the tiny model forgets its skills. This rate was chosen on dev environments with
# the tiny model; mini takes it over.
RATES = {("tiny", "reinforce++"): 5e-5, ("mini", "reinforce++"): 5e-5}
SCALES = {
    "tiny": TINY,
    "mini": TINY,
    "smollm2-135m": SMALL,
    "smollm2-135m-cpu": SMALL_ON_CPU,
}  # all others: by the number of GPUs
ONE_GPU_MILLIONS = 4000  # an `own` model up to this size uses one GPU, a larger one eight
ADAPTER_RATE = 10  # adapters need about ten times the learning rate of full training
EPISODE_TURNS = 4  # of an average episode, for estimates of cost
PEAK_FLOPS = 989e12  # of an H100 or H200, dense bf16
COMPUTE_USE = 0.4  # of the peak, while the policy trains; realistic for long packed sequences on idle machines
# Published GPU hours of one run similar to ours (ToolCompass, arXiv 2609.25678: Qwen3.5-4B, 21.9 h on 4 H200). Its
# batch sizes, lengths and epochs differ from ours. It is a plausibility check of the estimate, not a calibration.
PUBLISHED_HOURS = {"qwen3.5-4b-thinking-grpo-outcome": 4 * 21.9}
TEMPERATURE = {
    "paper": 1.0,
    "released": 0.7,
}  # presets: from the paper's text, and the trainer's default in the authors' scripts


@dataclass(frozen=True)
class Experiment:
    """One row of the matrix.

    `variant`, `match`, `control`: the reward's settings. `episode`: the reward of complete episodes; empty if every
    prefix is a separate prompt. `credit`: the row of reward/credit.py that computes one advantage per turn; empty for
    one advantage per episode. `adapter`: "lora" or empty. `without`: the omitted construction strategy.
    """

    name: str
    model: Model
    thinking: bool
    algorithm: str
    scale: Scale
    variant: str = "solve_f1"
    match: str = "published"
    control: str = ""
    episode: str = ""
    credit: str = ""
    adapter: str = ""
    without: str = ""

    @property
    def flags(self) -> list[str]:
        """The flags of the algorithm."""
        return ALGORITHMS[self.algorithm]

    @property
    def plain_reward(self) -> bool:
        """Whether the row trains all weights with the paper's reward, without an ablation or control."""
        return self.name == f"{self.model.name}-{'thinking' if self.thinking else 'plain'}-{self.algorithm}"

    @property
    def in_paper(self) -> bool:
        """Whether the row is one of the paper's twelve runs (its Table 2)."""
        return self.plain_reward and self.model.name in PAPER_MODELS and self.algorithm in PAPER_ALGORITHMS

    @property
    def gpus(self) -> int:
        """The default number of GPUs of a run. Adapters train on one."""
        return min(self.model.gpus, 1) if self.adapter else self.model.gpus

    def cpu_minutes(self, steps: int = 12) -> int:
        """Estimated minutes of training with `steps` rollout batches per epoch; 0 for models that need a GPU.

        The cpu profile has 12 steps. Collection, start-up and saving take 60 s per epoch. A step takes 14 s for 128
        responses of 300 tokens each, prompt included: two such trainings in parallel took 8 minutes on two cores. A
        step of complete episodes has 2.2 times the tokens.

        For larger models the time grows with the parameters, at twice the speed per parameter. This predicts 234 s per
        step for SmolLM2-135M. Measured: 204 to 243 s on one core that multiplies in bfloat16, 239 to 375 s on two cores
        that do not.
        """
        samples = self.scale.rollout_batch * self.scale.samples_per_prompt
        step = 14 * (2.2 if self.episode else 1) * samples / 128 * max(1.0, self.model.parameters / 2)
        return round(self.scale.epochs * (60 + step * steps) / 60) if self.model.gpus == 0 else 0

    def gpu_hours(self, prompts: int | None = None) -> float:
        """A rough estimate for one run on H100s or H200s at `COMPUTE_USE` of their peak; 0 for rows without a GPU.

        `prompts`: prompts per epoch (default: 5000 prefixes, or the 2215 questions for episodes). It counts forward,
        recomputed forward and backward of the policy, forward of policy and reference, and generation at a fifth of
        that efficiency. Adapters save the weights' part of the backward pass. PUBLISHED_HOURS has a published figure
        for comparison.
        """
        if self.model.gpus == 0:
            return 0.0
        prompts = prompts or (2215 if self.episode else 5000)
        written = 0.4 * self.scale.max_response * (EPISODE_TURNS if self.episode else 1)
        samples = self.scale.epochs * prompts * self.scale.samples_per_prompt
        per_token = 2e6 * self.model.parameters
        training = per_token * samples * (0.2 * self.scale.max_prompt + written) * (5 if self.adapter else 6)
        generation = per_token * samples * written * 5
        return (training + generation) / (COMPUTE_USE * PEAK_FLOPS) / 3600


def _scale(model: Model, thinking: bool, adapter: bool, algorithm: str) -> Scale:
    if model.name in SCALES:
        scale = SCALES[model.name]
        if thinking and scale is TINY:
            scale = TINY_THINKING
    elif adapter:
        scale = ADAPTERS_THINKING if thinking else ADAPTERS
    elif model.gpus == 1:
        scale = ONE_GPU_THINKING if thinking else ONE_GPU
    else:
        scale = PAPER_THINKING if thinking else PAPER
    if model.linear_layers or adapter:
        # Hybrids would mix packed sequences. Adapters use DeepSpeed's stage 2, which would keep only the gradient of
        # the last micro-batch.
        scale = replace(scale, token_budget=0)
    rate = RATES.get((model.name, algorithm), scale.learning_rate)
    return replace(scale, learning_rate=ADAPTER_RATE * rate if adapter else rate)


def own_model(policy: str) -> Model:
    """A model from the configuration of a checkpoint folder or hub name: one GPU up to 4B parameters, otherwise eight.

    Raises BadInput if it is not a causal language model, or if its memory cannot be planned (mixtures of experts).
    """
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(policy).get_text_config()
        heads = config.num_attention_heads
        linear = sum(kind == "linear_attention" for kind in getattr(config, "layer_types", None) or ())
        keys, values = (
            getattr(config, f"linear_num_{kind}_heads", 0) * getattr(config, f"linear_{kind}_head_dim", 0)
            for kind in ("key", "value")
        )
        model = Model(
            name="own",
            start=policy,
            thinking=True,  # train.rl_prompts checks whether the chat template has the switch
            gpus=1,
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_width=getattr(config, "head_dim", None) or config.hidden_size // heads,
            mlp_width=config.intermediate_size,
            vocabulary=config.vocab_size,
            tied=bool(getattr(config, "tie_word_embeddings", False)),
            linear_layers=linear,
            linear_columns=2 * keys + 3 * values + 2 * getattr(config, "linear_num_value_heads", 0) if linear else 0,
            gated=linear > 0,
        )
    except (OSError, ValueError, AttributeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{policy}: expected a causal language model's folder or hub name ({first})") from None
    if any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        raise BadInput(f"{policy}: mixtures of experts are not supported; choose a row of python -m train.experiments")
    return model if model.parameters <= ONE_GPU_MILLIONS else replace(model, gpus=8)


def experiment(name: str, policy: str = "") -> Experiment:
    """The experiment of that name. Ablations combine in any order. Only `own-...` uses `policy`, its model.

    Raises BadInput with the closest names for an unknown name.
    """
    models = list(MODELS.values())
    if name.startswith("own-"):
        if not policy:
            raise BadInput(f"{name}: an own-... row needs the model's folder or hub name (--model, --policy-dir)")
        models.append(own_model(policy))
    for model in sorted(models, key=lambda item: -len(item.name)):
        for mode in ("plain", "thinking"):
            head = f"{model.name}-{mode}-"
            if not name.startswith(head):
                continue
            if mode == "thinking" and not model.thinking:
                raise BadInput(f"{name}: {model.name} has no thinking mode; use {model.name}-plain-...")
            parsed = _algorithm_and_ablations(name[len(head) :])
            if parsed is not None:
                algorithm, settings = parsed
                if "credit" in settings and algorithm == "ppo":
                    raise BadInput(
                        f"{name}: ppo assigns credit with its critic; use {head}ppo-episode, or "
                        f"{head}grpo{name[len(head) + len('ppo') :]}"
                    )
                thinking = mode == "thinking"
                scale = _scale(model, thinking, "adapter" in settings, algorithm)
                return Experiment(name, model, thinking, algorithm, scale, **settings)
    close = difflib.get_close_matches(name, [item.name for item in matrix()], n=3, cutoff=0.3)
    raise BadInput(
        f"unknown experiment {name!r}; closest: {', '.join(close) or 'none'} (python -m train.experiments lists all)"
    )


def _algorithm_and_ablations(text: str) -> tuple[str, dict[str, str]] | None:
    keys = sorted(ABLATIONS, key=len, reverse=True)
    for algorithm in sorted(ALGORITHMS, key=len, reverse=True):
        if text != algorithm and not text.startswith(algorithm + "-"):
            continue
        rest = text[len(algorithm) :]
        settings: dict[str, str] = {}
        while rest:
            found = next((key for key in keys if rest == f"-{key}" or rest.startswith(f"-{key}-")), None)
            if found is None or ABLATIONS[found].keys() & settings.keys():
                break
            settings.update(ABLATIONS[found])
            rest = rest[len(found) + 1 :]
        if not rest:
            return algorithm, settings
    return None


def matrix() -> list[Experiment]:
    """Every model and mode with every algorithm, and each single ablation of grpo and reinforce++."""
    rows = []
    for model, mode in itertools.product(MODELS.values(), ("plain", "thinking")):
        if mode == "thinking" and not model.thinking:
            continue
        for algorithm in ALGORITHMS:
            rows.append(experiment(f"{model.name}-{mode}-{algorithm}"))
            if algorithm in ("grpo", "reinforce++"):
                rows += [experiment(f"{model.name}-{mode}-{algorithm}-{ablation}") for ablation in ABLATIONS]
    return rows


def main() -> int:
    parser = ScriptParser(__doc__, "python -m train.experiments")
    parser.add_argument("--json", action="store_true", help="print one JSON object per experiment")
    arguments = parser.parse_args()
    from train.trainer.memory_plan import smallest_gpu  # not at the top: memory_plan imports this module

    for row in matrix():
        size = smallest_gpu(row) if row.gpus else 0
        if arguments.json:
            more = {"in_paper": row.in_paper, "gpus": row.gpus, "gpu_gb": size, "flags": row.flags}
            cost = {"gpu_hours": round(row.gpu_hours(), 3), "cpu_minutes": row.cpu_minutes()}
            print(json.dumps({**asdict(row), **more, **cost}))
            continue
        where = f"{row.gpus} x {size:3} GB" if row.gpus else "CPU       "
        cost_text = f"{row.gpu_hours():6.0f} GPU hours" if row.gpus else f"{row.cpu_minutes():5} CPU minutes"
        batch = f"{row.scale.rollout_batch} x {row.scale.samples_per_prompt}, {row.scale.epochs} epochs"
        print(f"{row.name:66} {where}  about {cost_text}  {batch}{'  (paper)' if row.in_paper else ''}")
    if not arguments.json:
        for name, hours in PUBLISHED_HOURS.items():
            ratio = hours / experiment(name).gpu_hours()
            print(f"published for {name}: {hours:.0f} GPU hours, {ratio:.1f} times our estimate")
    return 0


if __name__ == "__main__":
    run_main(main)
