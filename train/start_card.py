"""Write the model card (README.md) of a policy trained by train.warm_start, with its results on dev.

Inputs: the policy's folder (with `warm_start.json`), and output folders of measurements on dev: `eval.environments`
(--tools) and `eval.general --tasks made --split dev` (--skills), each without and with --thinking.
Output: README.md in the policy's folder.

Example:
    python -m train.start_card assets/tiny_policy --tools plain=outputs/dev/plain thinking=outputs/dev/thinking \\
        --skills plain=outputs/dev/skills thinking=outputs/dev/skills-thinking
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, run_main
from train.teaching.warm_start_card import card


def read_summaries(kind: str, named: list[str]) -> dict[str, dict[str, Any]]:
    """Summaries of `mode=folder` arguments, by `<kind> <mode>`. Raises BadInput for another form or no summary."""
    found = {}
    for text in named:
        mode, _, folder = text.partition("=")
        path = Path(folder) / "summary.json"
        if mode not in ("plain", "thinking") or not path.is_file():
            raise BadInput(
                f"--{kind} {text}: expected plain=FOLDER or thinking=FOLDER; FOLDER must have a summary.json"
            )
        found[f"{kind} {mode}"] = json.loads(path.read_text(encoding="utf-8"))
    return found


def main() -> int:
    parser = ScriptParser(__doc__, "python -m train.start_card")
    parser.add_argument("folder", help="checkpoint folder of the policy")
    parser.add_argument(
        "--tools", nargs="*", default=[], metavar="MODE=FOLDER", help="results of eval.environments, by mode"
    )
    parser.add_argument(
        "--skills", nargs="*", default=[], metavar="MODE=FOLDER", help="results of eval.general, by mode"
    )
    arguments = parser.parse_args()
    folder = Path(arguments.folder)
    report = folder / "warm_start.json"
    if not report.is_file():
        raise BadInput(f"{report}: no such file; expected a folder that train.warm_start has finished")
    measured = read_summaries("tools", arguments.tools) | read_summaries("skills", arguments.skills)
    text = card(json.loads(report.read_text(encoding="utf-8")), folder, measured)
    (folder / "README.md").write_text(text, encoding="utf-8")
    print(f"wrote {folder / 'README.md'}")
    return 0


if __name__ == "__main__":
    run_main(main)
