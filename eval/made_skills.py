"""Write the items of the six made skills, which stand in for the six general benchmarks when those are missing.

Output, in --out: `<skill>/dev.jsonl` and `<skill>/test.jsonl` for `eval.general --tasks made --data OUT [--split dev]`,
and `lm_eval/<skill>.yaml` for lm-eval's own command (`lm_eval --include_path OUT/lm_eval --tasks made_lookup ...`, test
split). The two programming skills have no metric in those YAML files: lm-eval would run model-written code in the
grader's process. `eval.general` runs it in the sandbox.

The items depend only on --seed and --items. Splits never share a question, whatever the seeds
(train/teaching/made_skills.py).

Example:
    python -m eval.made_skills --out outputs/made --items 200
    python -m eval.general --tasks made --data outputs/made --policy hf:assets/tiny_policy --out outputs/tiny-skills \\
        --max-new-tokens 192
"""

from __future__ import annotations

from pathlib import Path

import yaml

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, keep_configuration, run_main, write_jsonl
from eval.suites.general_tasks import MADE_TASKS, find_subsets, task_configuration
from train.teaching.made_skills import SKILLS, made_items


def main() -> int:
    parser = ScriptParser(__doc__, "python -m eval.made_skills")
    parser.add_argument("--out", required=True, help="output folder")
    parser.add_argument("--items", type=int, default=200, help="number of items per skill and split")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.items < 1:
        raise BadInput(f"--items {arguments.items}: expected at least 1")
    out = Path(arguments.out)
    keep_configuration(out, {"items": arguments.items, "seed": arguments.seed})
    for skill in SKILLS:
        for split in ("dev", "test"):
            try:
                items = made_items(skill, split, arguments.items, arguments.seed)
            except ValueError as error:
                raise BadInput(f"--items {arguments.items}: {error}") from None
            write_jsonl(out / skill / f"{split}.jsonl", [item.doc | {"made_prompt": item.prompt} for item in items])
    (out / "lm_eval").mkdir(exist_ok=True)
    for subset in find_subsets(str(out), list(MADE_TASKS)):
        configuration = task_configuration(subset) | {"task": subset.benchmark.name}
        text = yaml.safe_dump(configuration, sort_keys=False)
        (out / "lm_eval" / f"{subset.benchmark.name}.yaml").write_text(text, encoding="utf-8")
    print(f"wrote {out}: {arguments.items} dev and {arguments.items} test items for each of {', '.join(SKILLS)}")
    return 0


if __name__ == "__main__":
    run_main(main)
