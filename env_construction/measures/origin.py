"""How well a simple classifier tells two data sets apart, and what gives them away.

A bag of words and a few counts, logistic regression, five-fold cross-validation, on questions, tool documents and code
apart. 0.5 means that it cannot tell; every word that only one side uses raises it. The larger data set is sampled down
to the size of the smaller one, with the same number per scenario where there are enough, in several draws.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from env_construction.environment.schema import Environment
from env_construction.measures.intervals import wilson
from env_construction.measures.shortcuts import asked_text

PARTS = ("questions", "documents", "code")
DRAWS = 5
FOLDS = 5
FEWEST = 10
"""Each data set needs this many environments."""
COUNTS = ("characters", "words", "letters per word", "digits", "capitals", "signs", "sentences", "lines")
_WORD = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True)
class Told:
    """`accuracy` over all draws, with the 95% interval of one draw of `n` environments, both data sets together.

    `first` and `second`: the features that speak most for the first and for the second data set.
    """

    part: str
    n: int
    accuracy: float
    low: float
    high: float
    first: list[str]
    second: list[str]


def text_of(environment: Environment, part: str) -> str:
    """The text that is judged. A question is judged without its instruction. Raises ValueError for an unknown part."""
    if part == "questions":
        return asked_text(environment).strip()
    if part == "documents":
        return "\n".join(json.dumps(tool.model_dump(), ensure_ascii=False) for tool in environment.tools)
    if part == "code":
        return "\n".join(environment.codes.values())
    raise ValueError(f"part {part!r}: expected one of {', '.join(PARTS)}")


def counts_of(texts: Sequence[str]) -> np.ndarray:
    """COUNTS of each text, shape (texts, counts). Lengths are logarithms, signs and digits are shares."""
    rows = []
    for text in texts:
        words, size = _WORD.findall(text), max(1, len(text))
        rows.append(
            [
                math.log1p(len(text)),
                math.log1p(len(words)),
                sum(map(len, words)) / max(1, len(words)),
                sum(sign.isdigit() for sign in text) / size,
                sum(sign.isupper() for sign in text) / size,
                sum(not (sign.isalnum() or sign.isspace()) for sign in text) / size,
                math.log1p(len(re.findall(r"[.?!](?:\s|$)", text))),
                math.log1p(text.count("\n")),
            ]
        )
    return np.array(rows)


def _sample(environments: Sequence[Environment], like: Sequence[Environment], rng: random.Random) -> list[Environment]:
    """As many environments as `like` has, in each scenario where there are enough."""
    groups: dict[str | None, list[Environment]] = defaultdict(list)
    for environment in environments:
        groups[environment.scenario].append(environment)
    wanted: dict[str | None, int] = defaultdict(int)
    for environment in like:
        wanted[environment.scenario] += 1
    drawn = [item for name, count in wanted.items() for item in rng.sample(groups[name], min(count, len(groups[name])))]
    taken = {id(item) for item in drawn}
    rest = [item for item in environments if id(item) not in taken]
    return drawn + rng.sample(rest, min(len(rest), len(like) - len(drawn)))


def tell_apart(first: Sequence[Environment], second: Sequence[Environment], part: str, seed: int = 0) -> Told:
    """How well a classifier tells the two data sets apart by `part`. Raises ValueError for fewer than FEWEST of one."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import FeatureUnion, make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    if min(len(first), len(second)) < FEWEST:
        raise ValueError(f"expected at least {FEWEST} environments on each side, got {len(first)} and {len(second)}")
    small, large = sorted((first, second), key=len)
    words = TfidfVectorizer(token_pattern=r"[A-Za-z]+|\d", binary=True, sublinear_tf=True, min_df=2, max_features=5000)
    features = FeatureUnion(
        [("words", words), ("counts", make_pipeline(FunctionTransformer(counts_of), StandardScaler()))]
    )
    model = make_pipeline(features, LogisticRegression(C=3.0, max_iter=1000))
    rng = random.Random(f"{seed}:{part}")
    right: list[float] = []
    for draw in range(DRAWS):
        sampled = _sample(large, small, rng)
        sides = (small, sampled) if small is first else (sampled, small)
        texts = [text_of(item, part) for side in sides for item in side]
        labels = np.array([0] * len(sides[0]) + [1] * len(sides[1]))
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=draw)
        right.append(float((cross_val_predict(model, texts, labels, cv=folds) == labels).mean()))
    model.fit(texts, labels)
    names = [*(f"word {name!r}" for name in _names(model)), *COUNTS]
    weights = model[-1].coef_[0]
    order = np.argsort(weights)
    n, accuracy = len(labels), sum(right) / len(right)
    return Told(
        part,
        n,
        accuracy,
        *wilson(accuracy * n, n),
        [names[place] for place in order[:8]],
        [names[place] for place in order[::-1][:8]],
    )


def _names(model: object) -> list[str]:
    """The words of a fitted model's vectorizer."""
    union = model[0]  # type: ignore[index]
    return list(dict(union.transformer_list)["words"].get_feature_names_out())
