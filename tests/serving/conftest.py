"""The environments that the tests of serving play: the four small ones, and the authors' sample where it lies beside the project."""

from pathlib import Path

import pytest

from env_construction.environment.schema import Environment, GoldCall, read_environments

SAMPLE = Path(__file__).resolve().parents[3] / "shared/data/ftrl_test_sample.jsonl"


@pytest.fixture
def played(environments: list[Environment]) -> list[Environment]:
    """The environments to play. The authors' have no gold plan: calls of the right tools with wrong arguments stand in."""
    if not SAMPLE.is_file():
        return environments
    published = [
        environment.model_copy(
            update={
                "gold_plan": [
                    GoldCall(sub_question="", name=tool, arguments={"query": answer})
                    for tool, answers in environment.unsolved_set.items()
                    for answer in answers
                ]
            }
        )
        for environment in read_environments(SAMPLE)
    ]
    return [*environments * 4, *published]
