"""Convert trajectories to OpenRLHF's RL dataset: each question and every prefix that ends in tool feedback.

Inputs: `trajectories.jsonl` of train.collect_trajectories, and the tokenizer of the model to train. Experiments on
complete episodes (`-episode`, `-outcome`) play online and need questions only: --environments FILE instead of
--trajectories.
Outputs:
- --out: JSONL with `prompt` (rendered text), `label` (JSON string with id, codes, unsolved_set, solved_set, solve_rate,
  answer and, for episodes, thinking and gold_plan) and `template_sha256` (of the chat template).
- `<out's stem>.summary.json`: the numbers of kept and dropped prompts, by reason.

The question of an environment is used once, even if several episodes were played. Prompts over the limit are dropped
and counted, because the trainer would truncate them on the left and lose the tool documents. The seed sets the order.
The set is trimmed to complete rollout batches, as in the authors' trainer.

Example:
    python -m train.rl_prompts --trajectories outputs/cpu/grpo/epoch-1/trajectories/trajectories.jsonl \\
        --tokenizer outputs/cpu/start --out outputs/cpu/grpo/epoch-1/prompts.jsonl --max-prompt-tokens 3072 \\
        --rollout-batch 32

Source: paper section "Training" (paper/README.md).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, file_sha256, run_main, write_jsonl
from env_construction.environment.schema import Environment
from train.collect_trajectories import load_environments, prefix_environments, read_trajectories
from train.policies.prompts import (
    TemplateRefuses,
    check_feedback,
    check_template,
    dropped_when_rendered_again,
    has_system_message,
    load_tokenizer,
    render_prompt,
    require_thinking,
    template_sha256,
)


@dataclass
class PromptCounts:
    """Counts by outcome. `prefixes = repeated_questions + over_long + over_max_prompts + trimmed + kept`."""

    trajectories: int = 0
    prefixes: int = 0
    repeated_questions: int = 0
    over_long: int = 0
    over_max_prompts: int = 0
    trimmed: int = 0
    kept: int = 0
    kept_questions: int = 0


def prompt_label(state: Environment, **more: Any) -> str:
    """The fields of a state that the reward needs, and `more`, as a JSON string (OpenRLHF's labels are strings)."""
    return json.dumps(
        {
            "id": state.id,
            "codes": state.codes,
            "unsolved_set": state.unsolved_set,
            "solved_set": state.solved_set,
            "solve_rate": state.solve_rate,
            "answer": state.answer,
            **({} if state.state is None else {"state": state.state_text()}),
            **more,
        },
        ensure_ascii=False,
    )


def training_states(
    trajectories: Iterable[tuple[str, dict[str, Any]]], counts: PromptCounts
) -> list[tuple[Environment, bool]]:
    """`(state, whether it is a question without turns)`: each question once, and every prefix with feedback.

    Sorted by id and trial. Files have the order in which episodes ended, which depends on the machine's speed.
    """
    states: list[tuple[Environment, bool]] = []
    asked: set[str] = set()
    for where, row in sorted(trajectories, key=lambda item: (item[1]["id"], item[1].get("trial", 0))):
        counts.trajectories += 1
        for state in prefix_environments(row, where):
            counts.prefixes += 1
            bare = state.messages[-1].get("role") != "tool"
            if bare and state.id in asked:
                counts.repeated_questions += 1
                continue
            if bare:
                asked.add(state.id)
            states.append((state, bare))
    return states


def bare_questions(environments: Iterable[Environment], counts: PromptCounts) -> list[tuple[Environment, bool]]:
    """The initial state of every environment, for complete episodes; same format as `training_states`."""
    states = [(environment, True) for environment in environments]
    counts.prefixes = len(states)
    return states


def draw_prompts(
    states: list[tuple[Environment, bool]],
    tokenizer: Any,
    counts: PromptCounts,
    *,
    thinking: bool,
    max_prompt_tokens: int,
    rollout_batch: int,
    max_prompts: int | None,
    seed: int,
) -> list[tuple[Environment, str]]:
    """(state, rendered prompt) of those that RL trains on, in training order.

    Prompts that are too long go first, then the rest is shuffled, and as many as asked for fill whole rollout batches.
    Raises BadInput if they do not fill one.
    """
    fitting: list[tuple[Environment, str, bool]] = []
    for state, bare in tqdm(states, desc="render", unit="prompt", disable=None):
        try:
            prompt = render_prompt(tokenizer, state.messages, state.openai_tools(), thinking)
        except TemplateRefuses as error:
            raise BadInput(f"environment {state.id!r}: {error}") from None
        if len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) > max_prompt_tokens:
            counts.over_long += 1
            continue
        fitting.append((state, prompt, bare))
    random.Random(f"{seed}:0:rl_prompts").shuffle(fitting)
    wanted = len(fitting) if max_prompts is None else min(max_prompts, len(fitting))
    counts.over_max_prompts = len(fitting) - wanted
    counts.kept = wanted - wanted % rollout_batch
    counts.trimmed = wanted - counts.kept
    if counts.kept == 0:
        raise BadInput(
            f"{wanted} prompts do not fill one rollout batch of {rollout_batch} ({counts.over_long} were over "
            f"{max_prompt_tokens} tokens): collect more trajectories, or lower --rollout-batch"
        )
    counts.kept_questions = sum(bare for *_, bare in fitting[: counts.kept])
    return [(state, prompt) for state, prompt, _ in fitting[: counts.kept]]


def make_prompts(
    states: list[tuple[Environment, bool]],
    tokenizer: Any,
    counts: PromptCounts,
    *,
    thinking: bool,
    episodes: bool = False,
    **drawn: Any,
) -> list[dict[str, Any]]:
    """The rows of the prompt file, in training order; `drawn` are the other arguments of `draw_prompts`.

    `episodes`: the prompts are starts of complete episodes, and their labels include the mode (thinking or not).
    """
    template = template_sha256(tokenizer)
    rows = []
    for state, prompt in draw_prompts(states, tokenizer, counts, thinking=thinking, **drawn):
        # Credit per turn may compare calls with gold calls (reward/credit.py).
        more = {"thinking": thinking, "gold_plan": [call.model_dump() for call in state.gold_plan]} if episodes else {}
        rows.append({"prompt": prompt, "label": prompt_label(state, **more), "template_sha256": template})
    return rows


def main() -> int:
    parser = ScriptParser(__doc__, "python -m train.rl_prompts")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--trajectories", default="", help="trajectories.jsonl of train.collect_trajectories")
    source.add_argument(
        "--environments",
        default="",
        help="environments (JSONL) whose questions are the prompts, for experiments on complete episodes",
    )
    parser.add_argument("--tokenizer", required=True, help="folder of the model to train")
    parser.add_argument("--out", required=True, help="prompt file to write (JSONL)")
    parser.add_argument("--max-prompt-tokens", type=int, default=16384, help="drop longer prompts")
    parser.add_argument(
        "--rollout-batch", type=int, default=512, help="prompts per rollout batch (--rollout.batch_size)"
    )
    parser.add_argument("--max-prompts", type=int, default=None, help="keep at most K prompts, drawn at random")
    parser.add_argument("--thinking", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.rollout_batch < 1:
        raise BadInput(f"--rollout-batch {arguments.rollout_batch}: expected at least 1")

    tokenizer = load_tokenizer(arguments.tokenizer)
    require_thinking(tokenizer, arguments.tokenizer, arguments.thinking)
    counts = PromptCounts()
    if arguments.environments:
        check_feedback(tokenizer, arguments.tokenizer, arguments.thinking)
        states = bare_questions(load_environments(arguments.environments), counts)
    else:
        states = training_states(read_trajectories(arguments.trajectories), counts)
    check_template(tokenizer, arguments.tokenizer, system=any(has_system_message(state) for state, _ in states))
    rows = make_prompts(
        states,
        tokenizer,
        counts,
        thinking=arguments.thinking,
        max_prompt_tokens=arguments.max_prompt_tokens,
        rollout_batch=arguments.rollout_batch,
        max_prompts=arguments.max_prompts,
        seed=arguments.seed,
        episodes=bool(arguments.environments),
    )
    out = Path(arguments.out)
    write_jsonl(out, rows)
    summary = asdict(counts) | {
        "rollout_batches": counts.kept // arguments.rollout_batch,
        "rollout_batch": arguments.rollout_batch,
        "max_prompt_tokens": arguments.max_prompt_tokens,
        "max_prompts": arguments.max_prompts,
        "thinking": arguments.thinking,
        "seed": arguments.seed,
        "template_sha256": template_sha256(tokenizer),
    }
    if arguments.environments:
        summary["environments_sha256"] = file_sha256(arguments.environments)
        summary["dropped_when_rendered_again"] = dropped_when_rendered_again(tokenizer, arguments.thinking)
    else:
        summary["trajectories_sha256"] = file_sha256(arguments.trajectories)
    summary_path = out.with_name(out.stem + ".summary.json")
    summary_path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(
        f"wrote {out}: {counts.kept} prompts in {summary['rollout_batches']} rollout batches, "
        f"from {counts.prefixes} prefixes (dropped: {counts.repeated_questions} repeated questions, "
        f"{counts.over_long} too long, {counts.over_max_prompts} over --max-prompts, {counts.trimmed} trimmed); "
        f"counts in {summary_path}"
    )
    if summary.get("dropped_when_rendered_again"):
        print(
            f"note: this template drops {summary['dropped_when_rendered_again']!r} from earlier turns when it renders "
            "a prompt; episodes keep this text, because it was there when the turn was sampled"
        )
    return 0


if __name__ == "__main__":
    run_main(main)
