"""What a model's text answers: the rules by which the general benchmarks are graded, as pure functions of text.

Thinking comes off first, for every rule: what stands before the last `</think>` is no answer, and thinking that nothing closes leaves
no answer at all, however good the thoughts are (a model that runs out of tokens while it thinks has not answered).

Where an answer is looked for, best evidence first:
- a letter (MMLU, BBH options): `\\boxed{C}`, "the answer is (C)", a text that begins with the letter, a last line that is the letter
- a number (GSM8K): `\\boxed{18}`, `#### 18`, "the answer is 18", the last number of the text
- an expression (MATH): the last `\\boxed{...}`, "the answer is ...", the last `$...$`
- a short text (BBH): `\\boxed{...}`, "the answer is ...", the last line

Source: the benchmarks' own graders say what an answer looks like (`####` of GSM8K, `\\boxed` of MATH, "the answer is" of chain-of-thought BBH).
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from env_construction.reply_text import said_after_thinking

LONGEST_NUMBER = 100
"""Characters; a longer run of digits is babble, and costs time."""

_END_OF_TURN = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "</s>")
_CUE = re.compile(r"\b(?:answer|choice|option)(?:\s+is|\**\s*:)(?:\s*:)?[\s*_]*(?:(?:option|choice)\b)?", re.IGNORECASE)
_STYLE = re.compile(r"\\(?:text|textbf|mathbf|mathrm|mathit|mbox|operatorname)\s*(?=\{)")
_NUMBER = re.compile(r"(?<![\w.])[-+]?\s?\$?\s?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?<![\w.])[-+]?\.\d+")
_FRACTION = re.compile(r"([-+]?)\\[dt]?frac\{?(-?\d{1,30}?)\}?\{?(-?\d{1,30})\}?|([-+]?)(\d{1,30})/(\d{1,30})")
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_INLINE = re.compile(r"\$\$([^$]+)\$\$|\$([^$]+)\$|\\\(((?:(?!\\[()]).)+)\\\)|\\\[((?:(?!\\[\[\]]).)+)\\\]", re.DOTALL)
_WORDS = frozenset({"yes", "no", "true", "false", "valid", "invalid"})


def split_thinking(text: str, opened: bool = False) -> tuple[str, bool]:
    """`(the text to grade, whether thinking was left unclosed)`; the first is empty where the second is true.

    `opened`: the prompt itself ended with `<think>`, so that thinking goes on from the text's first character.
    """
    text = text.rstrip()
    while token := next((token for token in _END_OF_TURN if text.endswith(token)), ""):
        text = text.removesuffix(token).rstrip()
    said, unclosed = said_after_thinking(text, opened)
    return said.lstrip("\r\n"), unclosed


def last_boxed(text: str) -> str | None:
    """What stands in the last whole `\\boxed{...}` or `\\fbox{...}`, braces balanced (`\\boxed 5` counts too); None without one."""
    opened: list[tuple[int, bool]] = []  # (offset behind an open brace, whether it is a box's)
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
    """The option that a text chooses, one of `letters` (capital), or None."""
    option = rf"[\s(\[{{*_\"'`$:]*([{letters}])(?![\w'’])"
    boxed = last_boxed(text)
    if boxed is not None:
        found = re.match(option, _STYLE.sub("", boxed))
        return found[1] if found else None
    for cue in reversed(list(_CUE.finditer(text))):
        if found := re.compile(option).match(text, cue.end()):
            return found[1]
    alone = re.compile(rf"[\s(\[*_\"'`$]*([{letters}])(?:[\s)\].:,;*_\"'`$]*\Z|[)\].:]|\*\*|[ \t]*\n)")
    lines = [line for line in text.splitlines() if line.strip()]
    for part in (text, lines[-1] if lines else ""):
        if found := alone.match(part):
            return found[1]
    return None


def stated_answer(text: str) -> str | None:
    """What follows the last "answer is" or "answer:", up to the end of its sentence or line; None without one."""
    for cue in reversed(list(_CUE.finditer(text))):
        end = text.find("\n", cue.end())
        line = text[cue.end() : end if end >= 0 else len(text)]
        sentence = re.split(r"(?<=[^.])\.(?:\s|$)|[!?](?:\s|$)", line, maxsplit=1)[0].strip()
        if sentence:
            return sentence
    return None


def number_in(text: str, last: bool = False) -> Fraction | None:
    """The first (or last) number of a text, with thousands' commas, a dollar sign or a decimal point; None without one."""
    found = [match[0] for match in _NUMBER.finditer(text)]
    return _exact(found[-1 if last else 0]) if found else None


def final_number(text: str) -> Fraction | None:
    """The number that a text arrives at."""
    boxed = last_boxed(text)
    if boxed is not None and (number := as_number(boxed)) is not None:
        return number
    _, marked, after = text.rpartition("####")
    for part in (after if marked else "", stated_answer(text) or ""):
        if (number := number_in(part)) is not None:
            return number
    return number_in(text, last=True)


def as_number(text: str) -> Fraction | None:
    """A text that is one number and nothing else but a unit or LaTeX styling: `-1,200.50`, `\\frac{3}{4}`, `50\\%`, `12\\text{ cm}`."""
    bare = _STYLE.sub("", text.strip().strip("$").strip())
    for junk in (
        "\\!",
        "\\,",
        "\\;",
        "\\ ",
        "\\left",
        "\\right",
        "\\$",
        "$",
        "\\%",
        "%",
        "^\\circ",
        "^{\\circ}",
        "\\circ",
    ):
        bare = bare.replace(junk, "")
    bare = re.sub(r"(?<=\d)\s*(?:\{[^{}]*\}|[A-Za-z][A-Za-z. ]*)$", "", bare.strip().rstrip(".")).strip()
    if found := _FRACTION.fullmatch(bare.replace(" ", "")):
        sign, top, bottom = (found[1], found[2], found[3]) if found[2] else (found[4], found[5], found[6])
        return Fraction(int(top), int(bottom)) * (-1 if sign == "-" else 1) if int(bottom) else None
    return _exact(bare) if _NUMBER.fullmatch(bare) else None


def _exact(text: str) -> Fraction | None:
    if len(text) > LONGEST_NUMBER:
        return None
    try:
        return Fraction(Decimal(re.sub(r"[,$\s+]", "", text)))
    except (InvalidOperation, ValueError):
        return None


def short_answer(text: str) -> str | None:
    """The short text that an answer ends in: boxed, stated, or the last line; None for an empty text."""
    boxed = last_boxed(text)
    if boxed is not None:
        return _STYLE.sub("", boxed)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return stated_answer(text) or (lines[-1] if lines else None)


def same_short_answer(target: str, answer: str) -> bool:
    """Are two short answers the same: numbers by value, words without case, markup and closing stop, lists without their commas?"""
    if re.fullmatch(
        r"[\[\](){}<>\s]+", target
    ):  # closing brackets, where a stop or a quote can stand but no bracket too many
        return "".join(target.split()) == re.sub(r"[\s`*\"'.]", "", answer)
    if (wanted := as_number(target)) is not None:
        return as_number(answer) == wanted
    said = _plain(answer)
    return said == _plain(target) or (
        _plain(target) in _WORDS and re.split(r"\W", said, maxsplit=1)[0] == _plain(target)
    )


def _plain(text: str) -> str:
    text = re.sub(r"[*_`$\"“”]", "", text.lower()).replace(",", " ")
    return " ".join(text.split()).strip(" .:;!'{}")


def final_expression(text: str) -> str | None:
    """The expression that a solution arrives at, without dollar signs; None for a text that states none."""
    if (boxed := last_boxed(text)) is not None:
        return boxed
    if (stated := stated_answer(text)) is not None:
        inline = _INLINE.search(stated)
        return _first_group(inline) if inline else stated.strip(" *.")
    found = list(_INLINE.finditer(text))
    return _first_group(found[-1]) if found else None


def _first_group(found: re.Match[str]) -> str:
    return next(group for group in found.groups() if group is not None).strip()


def same_expression(gold: str, answer: str) -> bool:
    """Are two LaTeX expressions equal: by MATH's own normalisation, or both one number of the same value?"""
    from lm_eval.tasks.hendrycks_math.utils import is_equiv

    if is_equiv(answer, gold):
        return True
    wanted = as_number(gold)
    return wanted is not None and as_number(answer) == wanted
