"""Advantages per turn through OpenRLHF's own sample generator and experience maker; prints one JSON object.

It runs in a fork of `adapted_server.py`, because the adaptation patches OpenRLHF permanently. The expected values are
built token by token from NumPy's numbers, without the adaptation's code.
"""

import json
import os
import random
from types import SimpleNamespace

from train.trainer.openrlhf_launcher import install, worker_environment

os.environ.update(worker_environment(["cpu", "no-flash-attn"], 1))
import torch

install()
import numpy as np  # noqa: E402
from openrlhf.trainer.ppo_utils.experience import split_experience_batch  # noqa: E402
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker  # noqa: E402
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator  # noqa: E402

from reward.credit import CREDITS, ESTIMATORS, batch_advantages, whiten  # noqa: E402
from train.trainer.hindsight import add_hindsight  # noqa: E402

PER_PROMPT, PROMPTS, MICRO = 4, 3, 5
plain = RemoteExperienceMaker.compute_advantages_and_returns.__wrapped__
draw = random.Random(7)


def response(turns, lost=False):
    """An episode as train/agent.py hands it over: tools answer between turns. `lost`: to a fault."""
    tokens, ranges = [draw.randrange(50) for _ in range(draw.randint(3, 9))], []
    for turn in range(turns):
        size = draw.randint(1, 6)
        ranges.append((len(tokens), len(tokens) + size))
        tokens += [draw.randrange(50) for _ in range(size + (draw.randint(1, 4) if turn < turns - 1 else 0))]
    earned = [] if lost else [draw.randint(-8, 16) / 16 for _ in range(turns)]
    reward = draw.randint(-8, 16) / 16
    return {
        "prompt": "p", "label": "l", "reward": reward, "scores": 0.0, "observation_tokens": tokens,
        "action_ranges": ranges,
        "rollout_log_probs": None, "truncated": False, "extra_logs": {"turns": torch.tensor([float(turns)])},
        "turn_rewards": earned,
    }  # fmt: skip


def maker(estimator, use_loss=True, micro=MICRO):
    args = SimpleNamespace(
        algo=SimpleNamespace(
            advantage=SimpleNamespace(estimator=estimator, gamma=1.0, no_std_norm=False, lambd=1.0),
            kl=SimpleNamespace(use_loss=use_loss),
        ),
        rollout=SimpleNamespace(n_samples_per_prompt=PER_PROMPT, micro_batch_size=micro, max_new_tokens=8),
        reward=SimpleNamespace(clip_range=None, overlong_buffer_len=None, stop_properly_penalty_coef=None),
        train=SimpleNamespace(dynamic_batch_enable=False),
        data=SimpleNamespace(max_len=4096),
    )  # fmt: skip
    made = object.__new__(RemoteExperienceMaker)
    made.args, made.strategy, made.advantage_estimator = args, SimpleNamespace(args=args), estimator
    made.tokenizer, made.kl_ctl = SimpleNamespace(pad_token_id=0), SimpleNamespace(value=0.0)
    return made


def advantages(responses, estimator, credit, compute=RemoteExperienceMaker.compute_advantages_and_returns, **more):
    """Per sample: its advantages, shape (actions,), without padding; and what its `info` holds."""
    os.environ.pop("FTRL_EPISODE_CREDIT", None)
    if credit:
        os.environ["FTRL_EPISODE_CREDIT"] = credit
    generator, made = object.__new__(SamplesGenerator), maker(estimator, **more)
    samples = [generator._process_response_into_experience(item, max_len=4096) for item in responses]
    batches = made.split_rollout_samples(samples)
    for batch in batches:
        batch.kl = torch.zeros(batch.action_mask.shape)
    batches = compute(made, batches)
    rows, infos = [], []
    for batch in batches:
        assert batch.returns.shape == batch.advantages.shape == batch.action_mask.shape
        for item in split_experience_batch(batch):  # as before training: `info` has one entry per sample
            length = int(item.attention_mask.sum()) - 1
            rows.append(item.advantages[:length].numpy())
            infos.append(sorted(item.info))
    return rows, infos, [int(sample.response_length) for sample in samples]


def expected(responses, estimator, credit):
    """Token by token from the NumPy functions."""
    worth = [np.array(item["turn_rewards"]) for item in responses]
    found = batch_advantages(credit, worth, PER_PROMPT, estimator)
    if estimator in ("reinforce", "reinforce_baseline"):
        sizes = [[end - start for start, end in item["action_ranges"]] for item in responses]
        tokens = [np.repeat(row, size[: len(row)]) for row, size in zip(found, sizes, strict=True)]
        flat = np.concatenate(tokens)
        mean, scale = flat.mean(), np.sqrt(flat.var())
        np.testing.assert_allclose(whiten(flat), (flat - mean) / scale)
        found = [(row - mean) / scale for row in found]
    rows = []
    for item, row in zip(responses, found, strict=True):
        line = np.zeros(len(item["observation_tokens"]) - 1)
        for (start, end), value in zip(item["action_ranges"], row, strict=False):
            for token in range(start, end):
                line[token - 1] = value
        rows.append(line)
    return rows


def gap(left, right):
    return max(float(np.abs(a - b).max()) for a, b in zip(left, right, strict=True))


responses = [response(draw.randint(1, 4)) for _ in range(PER_PROMPT * PROMPTS)]
responses[5] = response(3, lost=True)
found = {"gaps": {}, "largest": {}}
for credit in CREDITS:
    if CREDITS[credit].hindsight:
        continue
    for estimator in ESTIMATORS:
        rows, infos, lengths = advantages(responses, estimator, credit)
        found["gaps"][f"{credit} {estimator}"] = gap(rows, expected(responses, estimator, credit))
        found["largest"][f"{credit} {estimator}"] = max(float(np.abs(row).max()) for row in rows)
        assert infos == [["group_reward_std", "response_clip_ratio", "return", "reward", "score", "turns"]] * len(
            responses
        ), infos
        assert not rows[5].any(), "a lost episode teaches nothing"
found["written tokens"] = lengths == [sum(end - start for start, end in item["action_ranges"]) for item in responses]

# One reward at the end of an episode is what OpenRLHF does itself.
for item in responses:
    item["turn_rewards"] = [0.0] * (len(item["action_ranges"]) - 1) + [item["reward"]]
found["as OpenRLHF"] = {}
for estimator in ESTIMATORS:
    rows, _, _ = advantages(responses, estimator, "outcome")
    theirs, _, _ = advantages(responses, estimator, "", compute=plain)
    masks = []
    for item in responses:
        mask = np.zeros(len(item["observation_tokens"]) - 1)
        for start, end in item["action_ranges"]:
            mask[start - 1 : end - 1] = 1
        masks.append(mask)
    found["as OpenRLHF"][estimator] = gap(rows, [row * mask for row, mask in zip(theirs, masks, strict=True)])
untouched = advantages(responses, "group_norm", "")[0]
found["without credit nothing is changed"] = (
    gap(untouched, advantages(responses, "group_norm", "", compute=plain)[0]) == 0
)

# A sample that the model wrote nothing in: the others of its group are compared as if it were not there.
silent = [dict(item) for item in responses[:PER_PROMPT]]
silent[1]["action_ranges"], silent[1]["turn_rewards"], silent[1]["reward"] = [], [], -5.0
with_silent = advantages(silent, "group_norm", "")[0]
others = [silent[0], silent[2], silent[3]]
values = np.array([item["reward"] for item in others])
normalized = (values - values.mean()) / values.std(ddof=1)
found["silent"] = max(
    abs(float(with_silent[place][item["action_ranges"][0][0] - 1]) - normalized[number])
    for number, (place, item) in enumerate(zip((0, 2, 3), others, strict=True))
)
found["silent itself"] = float(np.abs(with_silent[1]).max())


# Hindsight: a reference whose log-probability of a token is told by the token and by how many tokens stand before it.
def reference(token, before):
    return -((int(token) * 7 + before * 3) % 11) / 5


def policy(token, before):
    return -((int(token) + before) % 5) / 4


def table(of, sequences):
    rows = [[of(row[place], place) for place in range(1, len(row))] for row in sequences]
    return torch.tensor(rows)


def hindsight_run(responses, credit, micro):
    """Advantages with the reference's hindsight, and how many sequences it was asked for."""
    os.environ["FTRL_EPISODE_CREDIT"] = credit
    generator, made = object.__new__(SamplesGenerator), maker("group_norm", micro=micro)
    made.args.ds = SimpleNamespace(ring_attn_size=1, tensor_parallel_size=1)
    made.args.actor = SimpleNamespace(num_nodes=1, num_gpus_per_node=3)
    made.args.train.colocate_all, made.args.train.colocate_actor_ref = True, False
    made.initial_model_group, asked = "the reference", []

    def dispatch(group, sync, sequences, action_mask, attention_mask):
        assert (group, sync, len(sequences) % 3) == ("the reference", True, 0)
        assert all(batch[1].shape[1] == batch[0].shape[1] - 1 for batch in zip(sequences, action_mask, strict=True))
        asked.append(sum(map(len, sequences)))
        return [table(reference, batch) * mask for batch, mask in zip(sequences, action_mask, strict=True)]

    made._dispatch_forward, made._flatten_results = dispatch, lambda refs, copies: refs
    samples = [generator._process_response_into_experience(item, max_len=4096) for item in responses]
    batches = made.split_rollout_samples(samples)
    for batch in batches:
        batch.kl = torch.zeros(batch.action_mask.shape)
        batch.action_log_probs = table(policy, batch.sequences)
    add_hindsight(made, batches)
    rows = []
    for batch in made.compute_advantages_and_returns(batches):
        for item in split_experience_batch(batch):
            assert not {"credit_turn", "credit_worth", "credit_gaps"} & item.info.keys()
            rows.append(item.advantages[: int(item.attention_mask.sum()) - 1].numpy())
    return rows, asked


def expected_gaps(item):
    """The gaps of each turn, shape (depths, tokens), none for the last turn. View: turns up to k + d, then turn k."""
    ranges, tokens, gaps = item["action_ranges"], item["observation_tokens"], []
    for k, (start, end) in enumerate(ranges):
        if k == len(ranges) - 1:
            gaps.append(np.zeros((3, 0)))
            continue
        rows = []
        for depth in (1, 2, 3):
            stop = ranges[min(k + depth, len(ranges) - 1)][0]
            rows.append([reference(tokens[t], stop + t - start) - policy(tokens[t], t) for t in range(start, end)])
        gaps.append(np.array(rows))
    return gaps


looked = [response(size) for size in (4, 1, 3, 2, 5, 2, 3, 1)]
gaps = [expected_gaps(item) for item in looked]
worth = [np.array(item["turn_rewards"]) for item in looked]
with_gaps = batch_advantages("turnsight", worth, PER_PROMPT, "group_norm", gaps)
rows, asked = hindsight_run(looked, "turnsight", 5)
wanted = []
for item, row in zip(looked, with_gaps, strict=True):
    line = np.zeros(len(item["observation_tokens"]) - 1)
    for (start, end), value in zip(item["action_ranges"], row, strict=True):
        line[start - 1 : end - 1] = value
    wanted.append(line)
found["hindsight"] = gap(rows, wanted)
without = batch_advantages("matchtir-hard", worth, PER_PROMPT, "group_norm")
found["hindsight changes"] = max(float(np.abs(a - b).max()) for a, b in zip(with_gaps, without, strict=True))
# 4 turns have views 3 + 2 + 1, 3 turns 2 + 1, 2 turns 1, 5 turns 3 + 3 + 2 + 1
found["sequences asked"] = [asked[0] >= 6 + 3 + 1 + 9 + 1 + 3, asked[0] < 23 + 3 * 5]
nobody = maker("group_norm")
nobody.initial_model_group = None


for name, call in {
    "no reference": lambda: add_hindsight(nobody, []),
    "KL in the reward": lambda: advantages(responses, "group_norm", "discounted", use_loss=False),
    "another agent": lambda: advantages(
        [{k: v for k, v in responses[0].items() if k != "turn_rewards"}] * 4, "rloo", "outcome"
    ),
    "wrong number": lambda: advantages([dict(responses[0], turn_rewards=[1.0] * 9)] * 4, "rloo", "outcome"),
    "unknown credit": lambda: advantages(responses, "rloo", "matchtir"),
    "critic": lambda: advantages(responses, "gae", "outcome"),
}.items():
    try:
        call()
    except Exception as error:
        found[name] = str(error)
print("FOUND " + json.dumps(found))
