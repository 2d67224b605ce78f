"""Rules of English: articles, plurals, lists, and natural conjunction of clauses."""

from __future__ import annotations

import re
from dataclasses import dataclass

_IRREGULAR = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
    "foot": "feet",
    "wife": "wives",
    "leaf": "leaves",
    "shelf": "shelves",
    "crisis": "crises",
    "curriculum": "curricula",
    "species": "species",
    "series": "series",
    "aircraft": "aircraft",
    "spacecraft": "spacecraft",
}
_ENDS_IN_PREPOSITION = re.compile(r"^(?P<stem>.+?) (?P<preposition>in|on|by|at|for|from|with|after|under|near) \{v\}$")
_AUXILIARIES = ("was ", "is ")


def plural_of(noun: str) -> str:
    """The plural of an English noun phrase: its last word is inflected."""
    stem, space, last = noun.rpartition(" ")
    if last in _IRREGULAR:
        return f"{stem}{space}{_IRREGULAR[last]}"
    if last.endswith(("woman", "man")) and last not in ("human", "talisman"):
        return f"{noun[:-3]}{'men'}"
    if last.endswith("y") and last[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if last.endswith(("s", "x", "z", "ch", "sh")) else f"{noun}s"


def plural_head(head: str) -> str:
    """ "date of birth" -> "dates of birth"."""
    found = re.match(r"(.+?)( (?:of|in|on|at|for|per) .+)$", head)
    return plural_of(found[1]) + found[2] if found else plural_of(head)


def article_of(word: str) -> str:
    """ "an" for "opera", "hour" and "MRI scan"; "a" for "poet", "university", "one-way ticket" and "UFO"."""
    first = re.split(r"[\s\-']", word, maxsplit=1)[0]
    if len(first) > 1 and first.isupper() and not re.search(r"[AEIOU]", first[1:3]):
        return "an" if first[0] in "AEFHILMNORSX" else "a"
    lower = word.lower()
    if lower.startswith(("hour", "heir", "honor", "honest", "herb ")):
        return "an"
    return "an" if lower[:1] in "aeiou" and not re.match(r"uni(?!n|m)|us[eu]|eu|one\b|once|ufo|uk", lower) else "a"


def with_article(noun: str) -> str:
    """ "a poet", "an opera", "a university", "an hour" """
    return f"{article_of(noun)} {noun}"


def right_articles(text: str) -> str:
    """ "A Anchor in Ashford" -> "An Anchor in Ashford", for generated titles."""
    return re.sub(r"\b([Aa])n? (?=([A-Z][\w\-']*))", lambda found: _cased(article_of(found[2]), found[1]) + " ", text)


def _cased(article: str, like: str) -> str:
    return article.capitalize() if like.isupper() else article


def listing(parts: list[str], last: str = "and") -> str:
    """ "a", "a and b", "a, b and c". The last "and" gets a comma if a part contains "and" or "or"."""
    if len(parts) < 2:
        return "".join(parts)
    comma = "," if len(parts) > 2 and any(" and " in part or " or " in part for part in parts[:-1]) else ""
    return f"{', '.join(parts[:-1])}{comma} {last} {parts[-1]}"


def tidy(text: str) -> str:
    """Remove commas before other punctuation, and start with a capital."""
    text = re.sub(r",+(?=[,.?!:;])", "", text).replace(" that that ", " that this ")
    return text[:1].upper() + text[1:]


@dataclass(frozen=True)
class Clause:
    """A statement about an entity: a pattern with {v}, its value, and whether the value is itself a description."""

    pattern: str
    value: str
    nested: bool = False

    @property
    def text(self) -> str:
        return self.pattern.replace("{v}", self.value)


def join_clauses(clauses: list[Clause], shorten: bool) -> str:
    """The clauses as one predicate, descriptions last: "was born in Ashford on May 3, 1801 and wrote 12 novels".

    Clauses with the same stem and different prepositions share the stem. With `shorten`, an auxiliary is not repeated:
    "was built in 1900 and designed by ...".
    """
    texts: list[str] = []
    stems: dict[str, tuple[int, set[str]]] = {}
    for clause in sorted(clauses, key=lambda clause: clause.nested):
        found = _ENDS_IN_PREPOSITION.match(clause.pattern)
        if found and found["stem"] not in ("is", "was"):
            place, used = stems.get(found["stem"], (-1, set()))
            if place == len(texts) - 1 >= 0 and found["preposition"] not in used:
                texts[place] += f" {found['preposition']} {clause.value}"
                used.add(found["preposition"])
                continue
            stems[found["stem"]] = (len(texts), {found["preposition"]})
        texts.append(clause.text)
    if shorten and len(texts) > 1:
        for auxiliary in _AUXILIARIES:
            if all(text.startswith(auxiliary) and not text[len(auxiliary) :].startswith("the ") for text in texts):
                texts = [texts[0], *(text.removeprefix(auxiliary) for text in texts[1:])]
    return listing(texts)
