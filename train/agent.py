"""Episode mode: plays complete episodes online. OpenRLHF loads this file by `--train.agent_func_path train/agent.py`.

Input: a question rendered by `train.rl_prompts --environments`, and its label (codes, unsolved_set, answer, thinking).
Output per sample: the tokens of the complete conversation, the ranges that the model wrote, one reward, and logs.

A turn keeps the tokens that were sampled. Only the tools' feedback is tokenized, as the chat template writes it after
a turn (`train.policies.prompts.feedback_text`). An earlier turn is never rendered again, because that would train on
tokens that the policy did not sample. Text that a template drops from earlier turns (Qwen3 without thinking: the empty
thinking block) therefore stays in the conversation. `train.rl_prompts` prints a note about it.

OpenRLHF 0.11.2 includes a multi-turn executor. This one differs where that one would change the method:

| | OpenRLHF's MultiTurnAgentExecutor | here |
| --- | --- | --- |
| token limit of a turn | the remainder of `--data.max_len` | `--rollout.max_new_tokens`, the same for every turn |
| no room for one more turn | uses the remaining tokens | ends (`too_long`) without feedback, as in collection |
| reward | sum over steps | one of `reward/episode_rewards.py`, computed once per episode |
| a truncated turn | its end-of-turn token stays missing | the token is added before the feedback |
| logs | of the last step | of the complete episode |
| an exception in a step | ends the training | reward 0 and `fault` 1 |

The trainer receives one scalar per sample, on the episode's last token. With gamma 1 every token of every turn has the
same return. With FTRL_EPISODE_CREDIT each turn has its own advantage: this file passes on the turns' rewards, and
train/trainer/turn_credit.py uses them.

Environment variables, read once; without them OpenRLHF cannot start: FTRL_REWARD_VARIANT, _MATCH, _CONTROL, _SEED
(reward/openrlhf_reward.py) for the turns, and
    FTRL_EPISODE_REWARD      turns | solve_f1 | answer   (reward/episode_rewards.py)
    FTRL_EPISODE_MAX_TURNS   default 20, as in collection and evaluation
    FTRL_EPISODE_CREDIT      a row of reward/credit.py; not set: one advantage per episode

Example:
    python -m train.run_openrlhf --experiment tiny-plain-grpo-episode --policy-dir outputs/cpu/start \\
        --prompts PROMPTS --out OUT
Source: paper/README.md, "Who uses it now": outcome-only training on complete episodes, compared with the paper's
turn-wise reward.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Any

# OpenRLHF executes this file by its path, in a process whose working folder may be outside the repository.
if (_ROOT := str(Path(__file__).resolve().parents[1])) not in sys.path:
    sys.path.insert(0, _ROOT)

import torch
from openrlhf.utils.agent import AgentExecutorBase

from reward.credit import PlayedTurn, turn_rewards
from reward.episode_rewards import EPISODE_REWARDS
from reward.logged_settings import NO_CREDIT, codes
from reward.openrlhf_inputs import on_grid
from train.policies.prompts import feedback_text, make_room_for_tools
from train.policies.tool_episode import EpisodeSettings, ToolEpisode, episode_logs
from train.trainer.turn_credit import EARNED, credit_of

logger = logging.getLogger(__name__)


class AgentExecutor(AgentExecutorBase):
    """Plays an episode for each sample that OpenRLHF requests.

    `settings` and `credit` default to the environment variables.
    """

    def __init__(self, settings: EpisodeSettings | None = None, credit: str | None = None) -> None:
        self.settings = settings or EpisodeSettings.from_environ(os.environ)
        self.credit = credit_of(os.environ) if credit is None else credit

    async def execute(
        self,
        prompt: str,
        label: str,
        sampling_params: Any,
        max_length: int,
        hf_tokenizer: Any,
        llm_engine: Any,
        images: Any = None,
    ) -> dict[str, Any]:
        """Play one sample; return the fields that OpenRLHF's samples generator expects.

        An infrastructure fault gets reward 0 and `fault` 1. Raises ValueError without a token limit per turn.
        """
        turn_tokens = sampling_params.max_tokens
        if not turn_tokens:
            raise ValueError("episode mode requires --rollout.max_new_tokens, the token limit of a turn")
        tokens = _token_ids(hf_tokenizer, prompt)
        if len(tokens) > max_length - turn_tokens:
            logger.warning("a prompt of %d tokens leaves no room for a turn; truncated on the left", len(tokens))
            tokens = tokens[turn_tokens - max_length :]
        log_probs: list[float] | None = None if sampling_params.logprobs is None else [0.0] * len(tokens)
        written: list[tuple[int, int]] = []
        episode: ToolEpisode | None = None
        try:
            episode = ToolEpisode.from_label(label, self.settings)
        except Exception as error:
            logger.warning("reward fault: %s: %s", type(error).__name__, error)
        while True:
            answer = await llm_engine.generate(tokens, sampling_params)
            [turn] = answer.outputs
            written.append((len(tokens), len(tokens) + len(turn.token_ids)))
            tokens = [*tokens, *turn.token_ids]
            if log_probs is not None:
                log_probs += [found[token].logprob for token, found in zip(turn.token_ids, turn.logprobs, strict=True)]
            feedback = await _feedback(episode, hf_tokenizer, list(turn.token_ids))
            if episode is None or not feedback:
                break
            if len(tokens) + len(feedback) > max_length - turn_tokens:
                episode.outcome = "too_long"
                break
            tokens = [*tokens, *feedback]
            if log_probs is not None:
                log_probs += [0.0] * len(feedback)
        reward = 0.0
        if episode is not None and episode.outcome != "fault":
            reward = on_grid(self.settings.turn.control.apply(on_grid(episode.true_reward)))
        logs = episode_logs(episode, self.settings)
        logs |= codes(self.settings.turn, self.settings.reward, self.credit or NO_CREDIT)
        return {
            "prompt": prompt,
            "label": label,
            "images": images,
            "mm_train_inputs": None,
            "reward": reward,
            "scores": min(1.0, max(0.0, reward)),
            "observation_tokens": tokens,
            "action_ranges": written,
            "rollout_log_probs": log_probs,
            "truncated": turn.finish_reason == "length" or (episode is not None and episode.outcome == "too_long"),
            "extra_logs": {key: torch.tensor([value]) for key, value in logs.items()},
            EARNED: earned_by_turns(episode, self.credit) if self.credit else [],
        }


def earned_by_turns(episode: ToolEpisode | None, credit: str) -> list[float]:
    """The reward of each turn by a row of reward/credit.py; empty if the episode was lost to a fault."""
    if episode is None or episode.outcome == "fault":
        return []
    strict = episode.settings.turn.match == "strict"
    turns = [
        PlayedTurn(turn.reward, [*turn.parsed.calls, *([None] * len(turn.parsed.malformed) if strict else [])])
        for turn in episode.turns
    ]
    answer = EPISODE_REWARDS["answer"]([], episode.score, episode.start.answer is not None)
    earned = turn_rewards(credit, turns, episode.true_reward, answer, episode.start.gold_plan)
    return [on_grid(reward) for reward in earned]


async def _feedback(episode: ToolEpisode | None, tokenizer: Any, turn: list[int]) -> list[int]:
    """Play a turn, given as its tokens. Return the tokens of the tools' feedback, empty if the episode has ended.

    The text is decoded from the tokens, because vLLM's text lacks the end-of-turn token, which the reward expects.
    Tool calls run in another thread, so that other episodes continue. The tokenizer is used only in this thread,
    because it is not thread-safe.
    """
    if episode is None:
        return []
    try:
        text = tokenizer.decode(turn, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        messages = await asyncio.to_thread(episode.take_turn, text)
        if not messages:
            return []
        # The prompts were rendered with this change to the template, but OpenRLHF loads the original tokenizer.
        make_room_for_tools(tokenizer, "the policy")
        feedback = _token_ids(tokenizer, feedback_text(tokenizer, messages, episode.thinking))
    except Exception as error:
        logger.warning("reward fault: %s: %s", type(error).__name__, error)
        episode.outcome = "fault"
        return []
    # The template's text begins with the end-of-turn token. A complete turn already ends with it.
    return feedback[1:] if turn[-1:] == feedback[:1] else feedback


def _token_ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
