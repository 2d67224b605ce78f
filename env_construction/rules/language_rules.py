"""Language rules: doubled words, articles, singular and plural, punctuation, capitals, length, repetition, nesting.

The rules do not parse grammar. Each is a pattern that is almost always an error in questions and tool documents. A text
without findings may still be bad English.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_QUOTED = re.compile(r'"[^"]*"')
_SENTENCE = re.compile(r'(?<=[.?!])(?<! v\.)(?<!\bSt\.)(?<!\bMr\.)(?<!\bDr\.)"? +')
_ABBREVIATION = re.compile(r"(?:\b[A-Z]\w+ [A-Z]|[A-Z]\.[A-Z]|\b[IVX]{2,}|\b[A-Z]\w+ [IVX])\.$")
_DOUBLED = re.compile(r"\b([A-Za-z]+) \1\b", re.IGNORECASE)
_TWO_ARTICLES = re.compile(r"\b(?:the|an?) (?:the|an?|this|that|its)\b", re.IGNORECASE)
_ARTICLE = re.compile(r"\b(an?) (\w[\w\-]*)", re.IGNORECASE)
_ASKS = re.compile(
    r"(?:What|Which|Who|Whose|When|Where|Why|How"
    r"|(?:In|On|At|To|From|For|Under|Near|By|With|Against|Into|Since) (?:what|which|whom|how))\b"
)
_ORDERS = re.compile(r"(?:Tell me|Name|Find|Look up|Please|I need|Identify|Consider|Take)\b")
_COUNTED = re.compile(
    r"\b(?:[Hh]ow many|many|several|few|(?:these|those)(?! (?:who|that|which|of|in|whose|are|were)\b)"
    r"|(?<!\S)(?<!between )(?:[2-9]|\d\d|\d\d\d|[1-9][\d,]*,\d{3})) "
    # an amount: "move 110 into it", "830 ft", "9 together"; a verb: "how many have"
    r"(?!(?:from|to|into|of|in|on|for|at|per|and|or|with|by|as|together|have|are|were|do|did|can)\b)"
    r"(?!(?:ft|mi|[kcmnp]?m|m?sec|kg|lb|g)\b)"
    r"([a-z]+)\b"
)
_SINGULAR_AFTER_THIS = re.compile(r"\b(?:this|that|each|every) (?!is\b|was\b|has\b|does\b)([a-z]+s)\b")
_PLURALS = frozenset(
    ["people", "children", "women", "men", "feet", "mice", "geese", "teeth", "aircraft", "spacecraft", "species",
     "series", "sheep", "fish", "hertz", "percent", "more", "fewer"]
)  # fmt: skip
_ENDS_LIKE_A_PLURAL = frozenset(
    ["species", "series", "lens", "gas", "canvas", "atlas", "news", "was", "has", "as", "always", "perhaps", "towards",
     "means", "besides", "lies", "stands", "holds", "runs", "makes", "gives", "takes", "does", "is", "its", "this"]
)  # fmt: skip
_VOWEL_SOUND = re.compile(r"[aeiou]", re.IGNORECASE)
_CONSONANT_SOUND = re.compile(r"uni(?!n|m)|us[eu]|eu|one\b|once|ufo|uk|ubiq|u-|utili|ura", re.IGNORECASE)
_SILENT_H = re.compile(r"hour|heir|hono[u]?r|honest", re.IGNORECASE)
LONGEST_QUESTION = 1400
MOST_RELATIVE_CLAUSES = 7
REPEATED_WORDS = 8

Rule = Callable[[str, bool], Iterator[str]]
"""(text, whether it is a question) -> the places that break the rule."""


def _sentences(text: str) -> list[str]:
    """The sentences. "Antoine J. Balard", "U.S. Virgin Islands" and "Budapest XX. kerület" are in one each."""
    found: list[str] = []
    for part in _SENTENCE.split(text):
        if found and _ABBREVIATION.search(found[-1]):
            found[-1] += f" {part}"
        else:
            found.append(part)
    return found


def doubled_word(text: str, question: bool) -> Iterator[str]:
    for found in _DOUBLED.finditer(_QUOTED.sub('""', text)):
        yield found[0]
    for found in _TWO_ARTICLES.finditer(text):
        yield found[0]


def wrong_article(text: str, question: bool) -> Iterator[str]:
    """Finds "a opera" and "an university". For a word in capitals, the name of its first letter counts."""
    for found in _ARTICLE.finditer(text):
        word, article = found[2], found[1].lower()
        named = found[1] == "A" and not re.search(r"(?:^|[.?!\"] )$", text[: found.start()])  # "town A and"
        foreign = found[2] in ("der", "den", "dem")  # "Geislingen an der Steige"
        if len(word) == 1 or word[0].isdigit() or named or foreign:
            continue
        if word.isupper():
            vowel = word[0] in "AEFHILMNORSX"
        else:
            vowel = bool(_SILENT_H.match(word) or (_VOWEL_SOUND.match(word) and not _CONSONANT_SOUND.match(word)))
        if vowel != (article == "an"):
            yield found[0]


def wrong_number(text: str, question: bool) -> Iterator[str]:
    """Finds "how many page" and "this poets"."""
    plain = _QUOTED.sub('""', text)
    for found in _COUNTED.finditer(plain):
        word, named = found[1], re.search(r"[A-Z][\w\-]* $", plain[: found.start()])  # "Helimont 43 and"
        if not named and not word.endswith("s") and word not in _PLURALS and not _is_adjective(plain, found.end()):
            yield found[0]
    for found in _SINGULAR_AFTER_THIS.finditer(plain):
        word = found[1]
        if word not in _ENDS_LIKE_A_PLURAL and not word.endswith(("ss", "us", "is")) and found[0].split()[0] != "that":
            yield found[0]


def _is_adjective(text: str, end: int) -> bool:
    """Whether a plural is among the next four words, before any punctuation: "3 new yellow buses", "12 gold crowns"."""
    following = re.split(r"[,.?;:]", text[end:], maxsplit=1)[0].split()[:4]
    return any((word.endswith("s") and word not in _ENDS_LIKE_A_PLURAL) or word in _PLURALS for word in following)


def unfilled_slot(text: str, question: bool) -> Iterator[str]:
    for found in re.finditer(r"\{[a-z_]*\}|\bNone\b|\bnan\b|<[a-z_]+>|_{2,}", text):
        yield found[0]


def doubled_mark(text: str, question: bool) -> Iterator[str]:
    for found in re.finditer(r"(?:[,;:?!]|(?<!\.)\.)(?:[,;:?!]|\.(?!\.))|\s[,.;:?!](?!\w)|  +|\"\"", text):
        yield f"...{text[max(0, found.start() - 12) : found.end() + 3]}"
    if text.count('"') % 2:
        yield 'an odd number of "'


def missing_capital(text: str, question: bool) -> Iterator[str]:
    for sentence in _sentences(text.strip()):
        first = sentence.lstrip("\"'(")[:1]
        if first.isalpha() and not first.isupper():
            yield sentence[:20]


def wrong_end(text: str, question: bool) -> Iterator[str]:
    """Finds questions without a question mark, and requests or statements that do not end with a period."""
    if not text.rstrip().endswith((".", "?", "!", ".)", '."', '?"')):
        yield f"...{text.rstrip()[-20:]}"
    if question:
        for sentence in _sentences(text.strip()):
            if _ASKS.match(sentence) and not sentence.rstrip('"').endswith("?"):
                yield f"...{sentence[-20:]}"
            if _ORDERS.match(sentence) and sentence.rstrip('"').endswith("?"):
                yield f"...{sentence[-20:]}"


def bad_length(text: str, question: bool) -> Iterator[str]:
    if len(text.split()) < 3 or len(text) > LONGEST_QUESTION:
        yield f"{len(text)} characters"


def repeated_phrase(text: str, question: bool) -> Iterator[str]:
    """Finds repeated sentences, and repeated runs of REPEATED_WORDS words in one sentence."""
    sentences = _sentences(text.strip())
    for sentence in {item for item in sentences if sentences.count(item) > 1 and len(item.split()) > 5}:
        yield sentence[:40]
    for sentence in sentences:
        words = sentence.lower().split()
        runs = [tuple(words[place : place + REPEATED_WORDS]) for place in range(len(words) - REPEATED_WORDS + 1)]
        for run in {item for item in runs if runs.count(item) > 1}:
            yield " ".join(run)


def nested_too_deeply(text: str, question: bool) -> Iterator[str]:
    """Finds sentences with more than MOST_RELATIVE_CLAUSES relative clauses."""
    for sentence in _sentences(_QUOTED.sub('""', text)):
        count = len(
            re.findall(r"\b(?:who|which|(?<=[a-z] )that|where) (?:is|was|has|had|[a-z]+ed|[a-z]+s)\b", sentence)
        )
        if count > MOST_RELATIVE_CLAUSES:
            yield f"{count} relative clauses"


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        doubled_word, wrong_article, wrong_number, unfilled_slot, doubled_mark, missing_capital, wrong_end, bad_length,
        repeated_phrase, nested_too_deeply,
    )
}  # fmt: skip


def language_findings(text: str, question: bool) -> list[tuple[str, str]]:
    """(rule, place) for each finding in a question or, if `question` is false, in a tool's description."""
    return [(name, place) for name, rule in RULES.items() for place in rule(text, question)]
