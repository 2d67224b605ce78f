"""The matrix: every experiment has a name, and the name says all of it. Data, and the few functions that read it.

    <model>-<plain|thinking>-<algorithm>[-<ablation>...]        for example qwen3-8b-thinking-grpo, tiny-plain-reinforce++-strict

`python -m train.experiments` lists them with an estimate of their cost, `--json` for programs. The paper's twelve runs are
{qwen2.5-7b, qwen2.5-14b}-plain and {qwen3-8b, qwen3-14b}-{plain, thinking}, each with grpo and reinforce++. Beyond it:

| ablation | what is trained |
| --- | --- |
| `-episode` | whole episodes, played online; reward: the turns' rewards summed, over n + 1 (reward/episode_rewards.py) |
| `-episode-credit-<row>` | the same, with an advantage for each turn: a row of reward/credit.py, such as `matchtir-hard` or `discounted` |
| `-outcome` | whole episodes; reward 1 for a right final answer: the "outcome GRPO" that later papers run on this data (Qwen3-8B) |
| `-outcome-f1` | whole episodes; reward: the episode's Solve-F1 |
| `-lora` | adapters instead of all weights, on one GPU; merged into a whole checkpoint after each epoch |

Models from 0.5B to 3B train on one GPU. `own-...` is a row for any other causal model: `experiment("own-plain-grpo", policy)` reads the
shape from the model's own configuration (run_all.sh --model). Qwen3.5 (`qwen3.5-4b`, `qwen3.5-9b`; shapes from published training
scripts) is a hybrid: three of four layers carry a state instead of attending. The pinned transformers and vLLM know the architecture;
transformers' layers do not tell packed sequences apart, so these rows train one sequence at a time. They have not been run.

Of the rows in paper/README.md, "Who uses it now": FTRL-GRPO is qwen3-8b-plain-grpo, outcome GRPO is qwen3-8b-plain-grpo-outcome.
MatchTIR's two rows are qwen3-8b-thinking-grpo-episode-credit-matchtir-hard and -soft, TurnSight's is -episode-credit-turnsight.
Hyperparameters: paper section "Training" (paper/README.md); the flags that carry them are in `train/trainer/openrlhf_command.py`.

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
    """A starting point: its hub name (empty where the run makes its own start), whether it has a thinking mode, the GPUs that
    a run takes, and its shape, from its published configuration.

    A hybrid has `linear_layers` among its `layers` whose projections have `linear_columns` columns in all, and an output gate as
    wide as the queries (`gated`) in the others.
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
    """It knows no tools: without supervised learning first, its rewards are near zero."""

    @property
    def parameters(self) -> float:
        """Millions, norms and biases left out."""
        attention = self.head_width * ((3 if self.gated else 2) * self.heads + 2 * self.kv_heads)
        mixing = (self.layers - self.linear_layers) * attention + self.linear_layers * self.linear_columns
        embeddings = self.vocabulary * (1 if self.tied else 2)
        return self.width * (embeddings + mixing + self.layers * 3 * self.mlp_width) / 1e6


@dataclass(frozen=True)
class Scale:
    """How much of everything; lengths in tokens, batches in prompts (`rollout_batch`) and samples (`train_batch`).

    `token_budget`: on GPUs that pack sequences, a micro-batch takes as many as have so many tokens together, instead of
    `micro_batch` sequences. A sequence of full length has as many, so that memory is the same. 0: off.
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
# of 32 layers; 16 key and 32 value heads of 128: query, key and value, gate, output, and two numbers a head
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

# OpenRLHF's flags for each algorithm, after and over those that all share (train/trainer/openrlhf_command.py). Dr. GRPO (arXiv 2503.20783)
# drops the division by each response's length; OpenRLHF's token mean is the nearest. GSPO (arXiv 2507.18071) clips the ratio of
# whole sequences, whose spread is a thousand times smaller.
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

# What an ablation changes: the reward's variant or matching, the control, what is played, which weights are trained, or the
# construction strategy left out.
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
ADAPTERS = Scale(64, 8, 128, 1, 1e-6, 1280, 384, 2)  # what 24 GB hold beside 8B parameters
ADAPTERS_THINKING = Scale(64, 8, 128, 1, 1e-6, 4096, 2048, 2)
SMALL = Scale(64, 8, 128, 8, 5e-6, 2048, 256, 2, token_budget=8 * (2048 + 256))
SMALL_ON_CPU = Scale(8, 4, 16, 1, 2e-5, 1024, 192, 1)
# Lengths: all prompts of demonstrators fit (the longest of 150 dev environments: 673 tokens plain, 808 thinking), and 99% of their turns.
TINY = Scale(16, 8, 32, 16, 1e-4, 704, 128, 2)
TINY_THINKING = replace(TINY, max_prompt=832, max_response=192)
# REINFORCE++ compares a response with all others of the batch, not with those to its own prompt. Its gradient is noisier for that,
# and at GRPO's rate the tiny model loses what it could: this rate was chosen on dev environments.
RATES = {("tiny", "reinforce++"): 2.5e-5, ("mini", "reinforce++"): 2.5e-5}
SCALES = {
    "tiny": TINY,
    "mini": TINY,
    "smollm2-135m": SMALL,
    "smollm2-135m-cpu": SMALL_ON_CPU,
}  # all others: by the GPUs that they take
ONE_GPU_MILLIONS = 4000  # a model of your own up to this size takes one GPU, a larger one eight
ADAPTER_RATE = 10  # adapters take about ten times the learning rate of full training
EPISODE_TURNS = 4  # of an average episode, for estimates of cost
PEAK_FLOPS = 989e12  # of an H100 or H200, dense bf16
COMPUTE_USE = 0.4  # of the peak, while the policy trains; sound for long packed sequences on idle machines
# GPU hours of one run that others published for a row like ours (ToolCompass, arXiv 2609.25678: Qwen3.5-4B, 21.9 h on 4 H200). Its
# batch sizes, lengths and epochs are not ours, so this bounds the estimate, it does not calibrate it.
PUBLISHED_HOURS = {"qwen3.5-4b-thinking-grpo-outcome": 4 * 21.9}
TEMPERATURE = {
    "paper": 1.0,
    "released": 0.7,
}  # presets: the paper's text, and the trainer's default in the authors' scripts


@dataclass(frozen=True)
class Experiment:
    """One row of the matrix. `variant`, `match`, `control`: the reward's settings; `episode`: the reward of whole episodes, empty
    where every prefix is a prompt of its own; `credit`: what gives each turn of an episode its advantage, a row of reward/credit.py, empty
    for one advantage per episode; `adapter`: "lora" or empty; `without`: a construction strategy left out.
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
        """The algorithm's own flags."""
        return ALGORITHMS[self.algorithm]

    @property
    def plain_reward(self) -> bool:
        """Whether the row trains all weights with the paper's own reward, in the paper's mode: no ablation, no control."""
        return self.name == f"{self.model.name}-{'thinking' if self.thinking else 'plain'}-{self.algorithm}"

    @property
    def in_paper(self) -> bool:
        """Whether the row is one of the paper's twelve runs (its Table 2)."""
        return self.plain_reward and self.model.name in PAPER_MODELS and self.algorithm in PAPER_ALGORITHMS

    @property
    def gpus(self) -> int:
        """The GPUs that a run takes unless told otherwise: adapters are trained on one."""
        return min(self.model.gpus, 1) if self.adapter else self.model.gpus

    def cpu_minutes(self, steps: int = 24) -> int:
        """Training alone, `steps` rollout batches an epoch: 60 s of start-up an epoch, and 14 s a step for 128 responses, 300
        tokens each with their prompt (two such trainings side by side on two cores took 25 minutes). A step of whole episodes has
        2.2 times the tokens. A larger model is taken to need as much longer as its matrices do at twice the speed: 234 s a step of
        SmolLM2-135M, which took 204 to 243 s on one core that multiplies in bfloat16, 239 to 375 s on two that do not. 0 for models
        that need a GPU.
        """
        samples = self.scale.rollout_batch * self.scale.samples_per_prompt
        step = 14 * (2.2 if self.episode else 1) * samples / 128 * max(1.0, self.model.parameters / 2)
        return round(self.scale.epochs * (60 + step * steps) / 60) if self.model.gpus == 0 else 0

    def gpu_hours(self, prompts: int | None = None) -> float:
        """A rough estimate for one run over `prompts` prompts an epoch (default: 5000 prefixes, or the 2215 questions for
        episodes) on H100s or H200s at `COMPUTE_USE` of their peak: forward, recomputed forward and backward of the policy, forward
        of policy and reference, and generation at a fifth of that efficiency. Adapters save the weights' part of the backward pass.
        0 for rows that take no GPU. See PUBLISHED_HOURS for what it was held against.
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
        # a hybrid mixes packed sequences; DeepSpeed's stage 2, which adapters take, keeps the last micro-batch's gradient alone
        scale = replace(scale, token_budget=0)
    rate = RATES.get((model.name, algorithm), scale.learning_rate)
    return replace(scale, learning_rate=ADAPTER_RATE * rate if adapter else rate)


def own_model(policy: str) -> Model:
    """A model from its own configuration, of a checkpoint folder or of a hub name whose configuration can be had; its row takes one
    GPU up to 4B parameters, else eight. Raises BadInput if it is no causal language model of the shape that can be planned for.
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
            thinking=True,  # whether the chat template has the switch is checked when prompts are made
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
        raise BadInput(
            f"{policy}: mixtures of experts are not planned for; choose a row of python -m train.experiments"
        )
    return model if model.parameters <= ONE_GPU_MILLIONS else replace(model, gpus=8)


def experiment(name: str, policy: str = "") -> Experiment:
    """The experiment of that name; ablations combine in any order. `own-...` takes its model from `policy`, others ignore it.

    Raises BadInput with the closest names.
    """
    models = list(MODELS.values())
    if name.startswith("own-"):
        if not policy:
            raise BadInput(
                f"{name}: the row of a model of your own needs that model's folder or hub name (--model, --policy-dir)"
            )
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
                        f"{name}: ppo gives credit by its critic; use {head}ppo-episode, or {head}grpo{name[len(head) + len('ppo') :]}"
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
    """Every model and mode with every algorithm, and every single ablation of grpo and reinforce++."""
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
    parser.add_argument("--json", action="store_true", help="one JSON object an experiment")
    arguments = parser.parse_args()
    from train.trainer.memory_plan import smallest_gpu  # which needs this module

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
            print(
                f"published for {name}: {hours:.0f} GPU hours, {hours / experiment(name).gpu_hours():.1f} times our estimate"
            )
    return 0


if __name__ == "__main__":
    run_main(main)
