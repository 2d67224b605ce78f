"""What was measured and how, as a machine-readable header and a name, so that different protocols are not mixed up.

Inputs: a suite's name, its recorded configuration, the hashes of its data. Output: `protocol` in every `summary.json`:

| key | meaning |
| --- | --- |
| `suite`, `split` | the cases: the data file's name and SHA-256 |
| `metrics` | the formula of each headline metric |
| `mode`, `turns` | plain or thinking; the turn limit per case, None if the suite's own rule ends a case |
| `decoding` | temperature (0 is greedy), tokens per turn, tokens per prompt |
| `matching` | `published` or `strict`; `both` if a suite reports both |
| `settings` | the suite's other choices, such as its simulated user |
| `seed`, `trials`, `limit` | the sample: these change the noise, not what is measured |
| `name` | all of the above in one line, for a table or a file name |

`eval.compare` refuses two results whose headers differ in more than seed, trials and limit. For an older summary
without a header, `protocol_of` builds it from the recorded configuration.

Source: PROTOCOL.md; paper/README.md, "Evaluation".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import BadInput, json_text

CASES = "mean over cases of "
# suite -> headline metric -> formula; the metric names match the suites' HEADLINES
FORMULAS: dict[str, dict[str, str]] = {
    "environments": {
        "solve_f1": CASES + "2 Q / (P + n)",
        "solve_f1_from_averages": "harmonic mean of the means of Solve-P and Solve-R",
        "answer_correct": "share of cases whose final text holds the answer",
    },
    "toolhop": {
        "ac_published": "share of right answers, mean of the settings, last tool output counts",
        "ac_strict": "share of right answers, mean of the settings, final text alone counts",
    },
    "tau_bench": {"pass^1": "share of tasks solved, unweighted mean of the domains"},
    "tau2": {"pass^1": "share of tasks solved, unweighted mean of the domains, natural-language assertions left out"},
    "cctu": {
        "sr": "share of cases solved whose final answer breaks no constraint",
        "psr": "share of cases solved in which no turn breaks a constraint",
    },
    "rotbench": {
        "ts_published": "tool selection, mean of five noise levels",
        "pi_published": "parameter identification, mean of five noise levels",
        "cf_published": "content filling, mean of five noise levels",
        "cf_tolerant": "content filling by value, mean of five noise levels",
    },
    "general": {"mean_of_tasks": "accuracy, mean of the tasks"},
    "bfcl": {
        name: "accuracy, mean of the group's categories"
        for name in ("non_live_ast", "live_ast", "multi_turn", "irrelevance", "relevance")
    },
}
FIXED_TURNS = {"rotbench": 1, "general": 1}
DECODING = ("temperature", "max_new_tokens", "max_prompt_tokens")
DECIDING = ("suite", "split", "metrics", "mode", "turns", "decoding", "matching", "settings")
NOTED = ("seed", "trials", "limit")
# configuration keys that the header stores under another name, or that name the policy
_ELSEWHERE = frozenset(
    {*DECODING, *NOTED, "thinking", "max_turns", "match", "data_sha256", "policy", "policy_content", "dtype"}
)
MATCHING_BOTH = frozenset({"toolhop", "rotbench", "general"})


def protocol(suite: str, configuration: Mapping[str, Any], data: Mapping[str, str]) -> dict[str, Any]:
    """The header of a result with this recorded configuration; `data` maps names of data files to their SHA-256."""
    header: dict[str, Any] = {
        "suite": suite,
        "split": dict(sorted(data.items())),
        "metrics": FORMULAS.get(suite, {}),
        "mode": "thinking" if configuration.get("thinking") else "plain",
        "turns": configuration.get("max_turns", FIXED_TURNS.get(suite)),
        "decoding": {name: configuration.get(name) for name in DECODING},
        "matching": "both" if suite in MATCHING_BOTH else configuration.get("match", "suite"),
        "settings": {name: value for name, value in configuration.items() if name not in _ELSEWHERE},
        **{name: configuration.get(name) for name in NOTED},
    }
    if suite in MATCHING_BOTH and "match" in configuration:
        header["settings"]["parsing"] = configuration["match"]
    return {"name": protocol_name(header), **header}


def protocol_name(header: Mapping[str, Any]) -> str:
    """One-line name of a protocol; hashes replace parts that are too long.

    Such as `environments/test-a4757ccf/plain/turns20/greedy-1024/published/seed0-trials1`.
    """
    files = list(header["split"].items())
    if len(files) == 1:
        split = f"{Path(files[0][0]).stem}-{files[0][1][:8]}"
    else:
        split = f"{len(files)}files-{_short_hash(header['split'])}"
    decoding = header["decoding"]
    temperature = decoding["temperature"]
    sampled = "greedy" if not temperature else f"t{temperature:g}"
    longest = f"of{decoding['max_prompt_tokens']}" if decoding["max_prompt_tokens"] else ""
    first = f"-first{header['limit']}" if header["limit"] is not None else ""
    parts = [
        header["suite"], split, header["mode"],
        *([f"turns{header['turns']}"] if header["turns"] is not None else []),
        f"{sampled}-{decoding['max_new_tokens']}{longest}", str(header["matching"]),
        *([f"set-{_short_hash(header['settings'])}"] if header["settings"] else []),
        f"seed{header['seed']}-trials{header['trials']}{first}",
    ]  # fmt: skip
    return "/".join(parts)


def _short_hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def summary_of(path: Path | str) -> dict[str, Any]:
    """The summary of a result folder, or beside a results file; empty if there is none."""
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    try:
        return dict(json.loads((folder / "summary.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def protocol_of(path: Path | str) -> dict[str, Any] | None:
    """The header of a result folder, or of the folder that contains a results file.

    None if its summary does not record how it was measured.
    """
    summary = summary_of(path)
    if isinstance(summary.get("protocol"), dict):
        return dict(summary["protocol"])
    try:
        return protocol(summary["suite"], summary["configuration"], summary["data_sha256"])
    except (KeyError, TypeError, AttributeError):
        return None


def protocol_differences(a: Mapping[str, Any], b: Mapping[str, Any], keys: tuple[str, ...] = DECIDING) -> list[str]:
    """`key: value of A, value of B` for each difference.

    For metrics and settings only keys known to both sides are compared, because versions of this repository may differ.
    """
    found = []
    for key in keys:
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            names = left.keys() & right.keys() if key in ("metrics", "settings") else left.keys() | right.keys()
            found += [
                f"{key} {name}: {_shown(left.get(name))}, {_shown(right.get(name))}"
                for name in sorted(names)
                if left.get(name) != right.get(name)
            ]
        elif left != right:
            found.append(f"{key}: {_shown(left)}, {_shown(right)}")
    return found


def _shown(value: Any) -> str:
    text = "not set" if value is None else value if isinstance(value, str) else json_text(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({_short_hash(value)})"


def compared_protocols(a: Path | str, b: Path | str, across: bool = False) -> dict[str, Any]:
    """The protocol names of both sides and their differences.

    Raises BadInput if they differ in more than noise and `across` is false. A side whose summary does not record its
    protocol has no name and is never a reason to refuse.
    """
    sides = protocol_of(a), protocol_of(b)
    names = [side["name"] if side else None for side in sides]
    differences: list[str] = []
    noted: list[str] = []
    if sides[0] and sides[1]:
        differences = protocol_differences(sides[0], sides[1])
        noted = protocol_differences(sides[0], sides[1], NOTED)
    if differences and not across:
        raise BadInput(
            f"{a} and {b} were measured under different protocols ({'; '.join(differences)}): "
            "their difference is not the gain of a policy. Measure both under one protocol, "
            "or compare anyway with --across-protocols"
        )
    return {"protocols": names, "protocol_differences": differences, "protocol_notes": noted}


def protocols_text(found: Mapping[str, Any]) -> str:
    """One line on the protocols of a comparison, plus lines for their differences."""
    a, b = found["protocols"]
    lines = [f"protocol {a}" if a == b and a else f"protocols {a or 'unknown'} and {b or 'unknown'}"]
    if found["protocol_differences"]:
        lines.append(f"ACROSS PROTOCOLS, so not the gain of a policy: {'; '.join(found['protocol_differences'])}")
    if found["protocol_notes"]:
        lines.append(f"sampled differently: {'; '.join(found['protocol_notes'])}")
    return "\n".join(lines)
