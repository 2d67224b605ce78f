"""The rules that extract an answer from a model's text for the general benchmarks, as pure functions of text.

Thinking is removed first, for every rule. Text before the last `</think>` is not an answer. Unclosed thinking leaves no
answer at all, however good it is: a model that runs out of tokens while it thinks has not answered.

Where each rule looks for an answer, best evidence first:
- a letter (MMLU, BBH options), in either case: `\\boxed{C}`; the last "the answer is (C)" or "C is the right answer"; a
  text that begins with the letter; a last line that is the letter; "it's C"
- a number (GSM8K): `\\boxed{18}`, `#### 18`, "the answer is 10 + 8 = 18", the last number outside parentheses
- an expression (MATH): the last `\\boxed{...}`, "the answer is ...", the last `$...$`
- a short text (BBH): `\\boxed{...}`, "the answer is ...", the last line

env_construction/environment/numbers.py parses numbers; eval/graders/math_grader.py compares expressions.

Source: the benchmarks' own graders define the form of an answer (`####` of GSM8K, `\\boxed` of MATH, "the answer is" of
chain-of-thought BBH).
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

from env_construction.environment.numbers import (
    CURRENCY,
    LONGEST_NUMBER,
    SIGNED_NUMBER,
    number_value,
    numbers_in,
    plain_typography,
)
from env_construction.replies.reply_text import said_after_thinking

_END_OF_TURN = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "</s>")
_IS = r"(?:is|are|was|equals|(?:must|should|would|will|has to) be)\b"
_CUE = re.compile(
    rf"\b(?:answer|choice|option)(?:\s+(?:to|for)\s[^.:\n]{{1,80}}?)?(?:\s+{_IS}|\s*=|\**\s*:)(?!\s*not\b)(?:\s*:)?"
    r"[\s*_]*(?:(?:option|choice)\b)?",
    re.IGNORECASE,
)
_VERDICT = (
    rf"\s*[)\]}}*_`\"'’]*\s+{_IS}\s+(?:(?:clearly|therefore|indeed|thus|most likely|probably)\s+)?(?:the\s+)?"
    r"(?:only\s+|most\s+)?(?:correct|right|best|appropriate|answer)(?![\w-])"
)
_PRONOUN = (
    r"\b(?:it(?:['’]s|\s+is|\s+must\s+be|\s+would\s+be)|say|choose|pick|select|go\s+(?:with|for))\s+"
    r"(?:(?:option|choice)\s+)?"
)
_STYLE = re.compile(r"\\(?:text|textbf|mathbf|mathrm|mathit|mbox|operatorname)\s*(?=\{)")
_FRACTION = re.compile(r"([-+]?)\\[dt]?frac\{?(-?\d{1,30}?)\}?\{?(-?\d{1,30})\}?|([-+]?)(\d{1,30})/(\d{1,30})")
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_INLINE = re.compile(r"\$\$([^$]+)\$\$|\$([^$]+)\$|\\\(((?:(?!\\[()]).)+)\\\)|\\\[((?:(?!\\[\[\]]).)+)\\\]", re.DOTALL)
_RUN_ON = re.compile(r"^[ \t]*(?:Question|Q)[ \t]*:", re.MULTILINE)
_PARENTHESES = re.compile(r"\([^()\n]*\)")
_EQUALS = re.compile(r"=|≈|≅|\\approx\b|\\Rightarrow\b|\bequals\b|\bwhich (?:is|gives|makes)\b", re.IGNORECASE)
_OPERATOR = re.compile(r"(?:[\s$()]|[A-Za-z]+\s)*(?:[-+*/×÷·∗⋅^]|\\times\b|\\cdot\b|\\div\b)[\s$()]*")
_WORDS = frozenset({"yes", "no", "true", "false", "valid", "invalid"})


def split_thinking(text: str, opened: bool = False) -> tuple[str, bool]:
    """`(the text to grade, whether thinking was left unclosed)`; the text is empty if thinking is unclosed.

    `opened`: the prompt itself ended with `<think>`, so the text starts inside the thinking.
    """
    text = text.rstrip()
    while token := next((token for token in _END_OF_TURN if text.endswith(token)), ""):
        text = text.removesuffix(token).rstrip()
    said, unclosed = said_after_thinking(text, opened)
    return said.lstrip("\r\n"), unclosed


def last_boxed(text: str) -> str | None:
    """The content of the last complete `\\boxed{...}` or `\\fbox{...}`, with balanced braces; None without one.

    `\\boxed 5` counts too.
    """
    opened: list[tuple[int, bool]] = []  # (offset after an open brace, whether it belongs to a box)
    last: tuple[int, int] | None = None
    for found in _BRACES.finditer(text):
        if found[0].endswith("{") and found[0] != r"\{":
            opened.append((found.end(), len(found[0]) > 1))
        elif found[0] == "}" and opened:
            begin, boxed = opened.pop()
            if boxed and (last is None or begin > last[0]):
                last = (begin, found.start())
    if last is not None:
        return text[slice(*last)].strip()
    bare = re.findall(r"\\boxed\s+([^\s{}$]+)", text)
    return bare[-1] if bare else None


def choice_letter(text: str, letters: str = "ABCD") -> str | None:
    """The option that a text chooses, one of `letters` (capitals), or None.

    A lower-case letter that is also a word (the article "a") counts only before punctuation or the end of a line.
    """
    opening, closing = r"[\s(\[{*_\"'`$:“‘]*", r"\s*(?:[)\]}.,:;!?*_\"`$”]|\n|\Z)"
    small = letters.lower()
    no_words = "".join(letter for letter in small if letter not in "ai")
    option = rf"{opening}([{letters}{no_words}](?![\w'’])|[{small}](?![\w'’])(?={closing}))"
    boxed = last_boxed(text)
    if boxed is not None:
        found = re.match(rf"{opening}([{letters}{small}])(?![\w'’])", _STYLE.sub("", boxed))
        return found[1].upper() if found else None
    stated = [(cue.start(), re.compile(option).match(text, cue.end())) for cue in _CUE.finditer(text)]
    stated += [
        (verdict.start(), verdict) for verdict in re.finditer(rf"(?<![\w'’])([{letters}{small}])(?i:{_VERDICT})", text)
    ]
    for _, found in sorted(stated, key=lambda item: item[0], reverse=True):
        if found:
            return found[1].upper()
    either = f"[{letters}{small}]"
    bare = re.compile(rf"[\s(\[*_\"'`$]*({either})[\s)\].:,;*_\"'`$]*\Z")
    leading = re.compile(rf"[\s(\[*_\"'`$]*({either})(?:[)\].:](?!\w)|\*\*|[ \t]*\n)")
    lines = [line for line in text.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    begins = [found[1].upper() for line in lines if (found := leading.match(line))]
    rules = [(bare, text), (leading, text), (bare, last), (leading, last)]
    if len(set(begins)) > 1:  # the text lists the options again, so its first and last letters are not a choice
        rules = [(bare, last)]
    for rule, part in rules:
        if found := rule.match(part):
            return found[1].upper()
    chosen = re.findall(rf"(?i:{_PRONOUN}){opening}({either})(?![\w'’])(?={closing})", text)
    return chosen[-1].upper() if chosen else None


def stated_answer(text: str) -> str | None:
    """The text after the last "answer is" or "answer:", up to the end of its sentence or line; None without one."""
    for cue in reversed(list(_CUE.finditer(text))):
        end = text.find("\n", cue.end())
        line = text[cue.end() : end if end >= 0 else len(text)]
        sentence = re.split(r"(?<=[^.])\.(?:\s|$)|[!?](?:\s|$)", line, maxsplit=1)[0].strip()
        if sentence:
            return sentence
    return None


def final_number(text: str) -> Fraction | None:
    """The number that a text arrives at."""
    text = plain_typography(_without_run_on(text))
    if (number := stated_number(last_boxed(text) or "")) is not None:
        return number
    _, marked, after = text.rpartition("####")
    for part in (after.strip().partition("\n")[0] if marked else "", stated_answer(text) or ""):
        if (number := stated_number(part)) is not None:
            return number
    for part in (_PARENTHESES.sub(" ", text), text):
        if found := list(numbers_in(part)):
            return _exact(found[-1].value)
    return None


def _exact(value: Decimal | None) -> Fraction | None:
    """The exact value; None for no number, or for more digits than a person would write (1e9999)."""
    return None if value is None or abs(value.adjusted()) > LONGEST_NUMBER else Fraction(value)


def _without_run_on(text: str) -> str:
    """The text up to the next question that a model asks itself, if an answer is stated before it."""
    before = _RUN_ON.split(text, maxsplit=1)[0]
    return before if "####" in before or last_boxed(before) or stated_answer(before) else text


def stated_number(text: str) -> Fraction | None:
    """The value of a short text that states a number: `18 apples`, `10 + 8 = 18`, `18 (out of 100)`.

    Typography is ignored. In an equation, the last side that is not a calculation counts. A calculation without a
    result is not a number.
    """
    text = plain_typography(text)
    for chosen in (_PARENTHESES.sub(" ", text), text):
        for side in reversed(_EQUALS.split(chosen)):
            if (number := as_number(side)) is not None:
                return number
            found = list(numbers_in(side))
            if found and not _calculates(side, found[0].end):
                return _exact(found[0].value)
    return None


def _calculates(text: str, end: int) -> bool:
    """Whether an operator and another number follow the position `end`."""
    rest = text[end:]
    operator = _OPERATOR.match(rest)
    after = rest[operator.end() :] if operator else rest
    found = next(numbers_in(after), None)
    return (
        found is not None
        and not after[: found.start].strip(f" {CURRENCY}")
        and (operator is not None or after[found.start] in "+-")
    )


def as_number(text: str) -> Fraction | None:
    """The value of a text that is one number, with at most a unit or LaTeX styling.

    Such as `-1,200.50`, `\\frac{3}{4}`, `50\\%`, `12\\text{ cm}`.
    """
    bare = _STYLE.sub("", plain_typography(text).strip().strip("$").strip(" *"))
    for junk in ("\\!", "\\,", "\\;", "\\ ", "\\left", "\\right", "$", "%", "^\\circ", "^{\\circ}", "\\circ"):
        bare = bare.replace(junk, "")
    bare = re.sub(r"(?<=\d)\s*(?:\{[^{}]*\}|[A-Za-z][A-Za-z. ]*)$", "", bare.strip().rstrip(".")).strip()
    bare = re.sub(r"^([-+])\s+", r"\1", bare)
    if found := _FRACTION.fullmatch(bare.replace(" ", "")):
        sign, top, bottom = (found[1], found[2], found[3]) if found[2] else (found[4], found[5], found[6])
        return Fraction(int(top), int(bottom)) * (-1 if sign == "-" else 1) if int(bottom) else None
    if not re.fullmatch(SIGNED_NUMBER, bare, re.IGNORECASE):
        return None
    return _exact(number_value(bare))


def short_answer(text: str) -> str | None:
    """The short text that an answer ends in: boxed, stated, or the last line; None for an empty text."""
    boxed = last_boxed(text)
    if boxed is not None:
        return _STYLE.sub("", boxed)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return stated_answer(text) or (lines[-1] if lines else None)


def same_short_answer(target: str, answer: str) -> bool:
    """Whether two short answers are the same.

    Numbers compare by value, words without case, markup or a final period, and lists without their commas.
    """
    # an answer of closing brackets may have periods or quotes, but no extra bracket
    if re.fullmatch(r"[\[\](){}<>\s]+", target):
        return "".join(target.split()) == re.sub(r"[\s`*\"'.]", "", answer)
    if (wanted := as_number(target)) is not None:
        return as_number(answer) == wanted
    said = _plain(answer)
    return said == _plain(target) or (
        _plain(target) in _WORDS and re.split(r"\W", said, maxsplit=1)[0] == _plain(target)
    )


def _plain(text: str) -> str:
    text = re.sub(r"[*_`$\"“”]", "", plain_typography(text).lower()).replace(",", " ")
    return " ".join(text.split()).strip(" .:;!'{}")


def final_expression(text: str) -> str | None:
    """The expression that a solution arrives at, without dollar signs; None if the text states none."""
    if (boxed := last_boxed(text)) is not None:
        return boxed
    if (stated := stated_answer(text)) is not None:
        inline = _INLINE.search(stated)
        return _first_group(inline) if inline else stated.strip(" *.")
    found = list(_INLINE.finditer(text))
    return _first_group(found[-1]) if found else None


def _first_group(found: re.Match[str]) -> str:
    return next(group for group in found.groups() if group is not None).strip()
