"""Episode mode: the file that OpenRLHF loads for `--train.agent_func_path train/agent.py`. Plays whole episodes online.

In: a bare question as rendered by `train.rl_prompts --environments`, and its label (codes, unsolved_set, answer, thinking).
Out, for each sample: the tokens of the whole conversation, which of them the model wrote, one reward, logs.

Tokens in, tokens out: a turn's tokens stay as they were sampled, and only the tools' feedback is tokenized, as the chat template
writes it after a turn (`train.policies.prompts.feedback_text`). An earlier turn is never rendered again: parsing it and writing it anew
would train on tokens that the policy did not sample. What a template would drop from earlier turns (Qwen3 without thinking: the
empty thinking block) therefore stays in; `train.rl_prompts` says so when it makes the prompts.

OpenRLHF 0.11.2 has a multi-turn executor of its own. This one differs where that one would change the method:

| | OpenRLHF's MultiTurnAgentExecutor | here |
| --- | --- | --- |
| tokens of a turn | all that is left of `--data.max_len`, from the first turn on | at most `--rollout.max_new_tokens`, every turn |
| a conversation too long for one more turn | goes on with what is left, feedback included | ends (`too_long`), as in collection; no feedback after it |
| reward | sum of what each step returns | one of `reward/episode_rewards.py`, made once, of the whole episode |
| a turn that was cut off | its end-of-turn token is missing from then on | the token is added to the feedback, where the turn lacks it |
| logs | those of the last step | of the whole episode |
| an exception in a step | ends the training | reward 0 and `fault` 1 |

OpenRLHF sees one scalar a sample, put on the episode's last token; with gamma 1 every token of every turn has the same return. With
FTRL_EPISODE_CREDIT each turn has an advantage of its own: what its turns earned goes along, and train/trainer/turn_credit.py uses it.

Settings, read once; OpenRLHF cannot start without them: FTRL_REWARD_VARIANT, _MATCH, _CONTROL, _SEED (reward/openrlhf_reward.py)
for the turns, and
    FTRL_EPISODE_REWARD      turns | solve_f1 | answer   (reward/episode_rewards.py)
    FTRL_EPISODE_MAX_TURNS   default 20, as in collection and evaluation
    FTRL_EPISODE_CREDIT      a row of reward/credit.py; not set: one advantage per episode

Example:
    python -m train.run_openrlhf --experiment tiny-plain-grpo-episode --policy-dir outputs/cpu/start --prompts PROMPTS --out OUT
Source: paper/README.md, "Who uses it now": outcome-only training on whole episodes against the paper's turn-wise reward.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Any

# OpenRLHF executes this file by its path, in a process that need not have been started in the repository
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
    """Plays an episode for each sample that OpenRLHF asks for. `settings`, `credit`: of the environment's variables if not given."""

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
        """One sample in the shape that OpenRLHF's samples generator expects. A fault of ours is reward 0, `fault` 1."""
        turn_tokens = sampling_params.max_tokens
        if not turn_tokens:
            raise ValueError("episodes need --rollout.max_new_tokens: the most tokens that a turn may have")
        tokens = _token_ids(hf_tokenizer, prompt)
        if len(tokens) > max_length - turn_tokens:
            logger.warning("a prompt of %d tokens leaves no room for a turn and is cut on the left", len(tokens))
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
    """What each turn of an episode earned, a row of reward/credit.py; nothing where the episode was lost to a fault."""
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
    """Play a turn, given as its tokens; the tokens of the tools' feedback, empty if the episode has ended.

    The text is decoded from the tokens: vLLM's own text lacks the end-of-turn token, and the reward sees it with that. Calls run
    in a thread, so that other episodes go on meanwhile; the tokenizer stays in this one, since it may not be shared.
    """
    if episode is None:
        return []
    try:
        text = tokenizer.decode(turn, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        messages = await asyncio.to_thread(episode.take_turn, text)
        if not messages:
            return []
        make_room_for_tools(
            tokenizer, "the policy"
        )  # as the prompts were rendered; OpenRLHF loads the tokenizer as it is
        feedback = _token_ids(tokenizer, feedback_text(tokenizer, messages, episode.thinking))
    except Exception as error:
        logger.warning("reward fault: %s: %s", type(error).__name__, error)
        episode.outcome = "fault"
        return []
    # the template's text begins with the end-of-turn token, which a turn that ended by itself has already
    return feedback[1:] if turn[-1:] == feedback[:1] else feedback


def _token_ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
