"""OpenRLHF's log, read: metrics of a step, the lines that tell what went wrong."""

import json
from pathlib import Path

from reward.logged_settings import TABLES
from train.trainer.training_log import drop_steps_after, error_lines, read_status

# as OpenRLHF 0.11.2 wrote it through Ray
LINE = (
    "\x1b[36m(PPOTrainer pid=6953)\x1b[0m INFO 11-23 11:38:49 ppo_trainer.py:551] ✨ Global step 2: "
    "{'kind_answer': 0.0, "
    "'kl': 0.03513701018003723, 'reward': 0.43489623069763184, 'return': -2.561137080192566e-09, 'sandbox_ms': 0.5, "
    "'timing/make_experience': 2.8001537322998047, 'rollout/num_samples': 128.0, 'timing/step_total': 16.0}"
)


def test_a_steps_metrics_are_read_under_their_own_names() -> None:
    row = read_status(LINE)
    assert row is not None
    assert row["step"] == 2
    assert row["kl"] == 0.03513701018003723
    assert row["return"] == -2.561137080192566e-09
    assert row["timing/make_experience"] == 2.8001537322998047


def test_the_rewards_share_of_a_step_is_in_its_row() -> None:
    row = read_status(LINE)
    assert row is not None
    assert row["reward_seconds"] == 0.5 * 128 / 1000
    assert row["reward_share"] == 0.064 / 16


def test_values_that_are_no_numbers_become_null() -> None:
    row = read_status("Global step 7: {'reward': 0.5, 'kl': nan, 'x': inf, 'y': -inf, 'note': 'text'}")
    assert row == {"step": 7, "reward": 0.5, "kl": None, "x": None, "y": None}
    assert "NaN" not in json.dumps(row)


def test_other_lines_are_no_steps() -> None:
    assert read_status("(PPOTrainer pid=1) Episode [1/1]: 100%|####| 64/64 [00:40<00:00]") is None
    assert read_status("Global step 3: saved") is None


def test_the_rewards_settings_are_read_by_name() -> None:
    variant = float(TABLES["reward_variant"].index("solve_recall"))
    row = read_status(
        f"Global step 7: {{'reward_variant': {variant}, 'reward_match': 1.0, 'reward_control': 0.0, "
        "'reward_seed': 5.0}"
    )
    assert row is not None
    assert (row["reward_variant"], row["reward_match"], row["reward_control"]) == ("solve_recall", "strict", "")
    mixed = read_status("Global step 7: {'reward_variant': 1.5}")
    assert mixed == {"step": 7, "reward_variant": 1.5}


def test_steps_after_the_saved_state_leave_the_log_and_a_torn_line_too(tmp_path: Path) -> None:
    rows = tmp_path / "train_log.jsonl"
    rows.write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 6)) + '{"step": 6, "rew', encoding="utf-8")
    drop_steps_after(rows, 3)
    assert [json.loads(line)["step"] for line in rows.read_text(encoding="utf-8").splitlines()] == [1, 2, 3]
    drop_steps_after(tmp_path / "absent.jsonl", 3)
    assert not (tmp_path / "absent.jsonl").exists()


def test_error_lines_leave_out_bars_colours_and_warnings() -> None:
    log = (
        "\x1b[36m(Actor pid=3)\x1b[0m ValueError: no such model\n"
        "forward:  50%|#####     | 1/2 [00:01<00:01,  1.2s/it]\rforward: 100%|##########| 2/2 [00:02<00:00,  1.2s/it]\n"
        "WARNING 11-23 11:35:16 [vllm.py:663] something\n\n"
    )
    assert error_lines(log) == ["(Actor pid=3) ValueError: no such model"]
