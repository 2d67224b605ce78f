"""Mend what the final validation finds: the message of each broken rule goes to the stage that can mend it, in bounded
rounds.

Rules that a run of a tool broke go back to stage 5 for that tool; all others begin anew at stage 1, with the message.
Both count as repairs in the provenance. An environment that still breaks a fatal rule after `author.tries` validations
is rejected under that rule's name. For authors that can learn from a message (the fact author cannot: its drafts are
made anew).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from env_construction.building.author import Author, Draft, Rejected
from env_construction.building.environment_builder import run_stages
from env_construction.environment.schema import Environment
from env_construction.localized_deployment import complete_environment, redeploy_tool
from env_construction.rules.finding import Finding
from env_construction.rules.probe_rules import PROBE_RULES
from env_construction.rules.validation import REPLAY_RULES, validate_environments
from env_construction.sandbox.tool_sandbox import ToolSandbox

MENDED_BY_CODE = frozenset(rule.__name__ for rule in (*REPLAY_RULES, *PROBE_RULES)) | {"source_is_pure"}


def build_repaired(author: Author, draft: Draft, sandbox: ToolSandbox) -> tuple[Environment, list[Finding]]:
    """All five stages, then validation and repair. Returns the valid environment and its flags. Raises Rejected."""
    run_stages(author, draft)
    for validation in range(1, author.tries + 1):
        environment = complete_environment(author, draft)
        [findings] = validate_environments([environment], sandbox)
        fatal = [finding for finding in findings if finding.fatal]
        if not fatal:
            if findings:
                environment.provenance["flags"] = sorted({finding.rule for finding in findings})
            return environment, findings
        if validation < author.tries:
            repairs = draft.provenance.setdefault("repairs", {})
            for finding in fatal:
                name = f"validation:{finding.rule}"
                repairs[name] = repairs.get(name, 0) + 1
            mend(author, draft, fatal)
    raise Rejected(fatal[0].rule, fatal[0].message)


def mend(author: Author, draft: Draft, findings: Sequence[Finding]) -> None:
    """Let the author mend the draft. Raises Rejected where it cannot."""
    serving = {call.sub_question: call.name for call in draft.calls}
    messages: dict[str, list[str]] = defaultdict(list)
    for finding in findings:
        name = serving.get(finding.place, finding.place)
        if finding.rule not in MENDED_BY_CODE or name not in draft.codes:
            run_stages(author, draft, f"{finding.rule}: {finding.message}")
            return
        messages[name].append(f"{finding.rule}: {finding.message}")
    for tool in draft.tools:
        if tool.name in messages:
            redeploy_tool(author, draft, tool, "; ".join(messages[tool.name]))
