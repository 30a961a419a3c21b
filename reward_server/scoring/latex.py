"""One spelling for the many ways of writing a mathematical answer: strings in, strings out, no meaning yet."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from reward_server.scoring.extract import closing_brace
from reward_server.scoring.text import MAX_WRAPPERS, unwrap_once

TEXT_COMMANDS = ("boxed", "text", "textbf", "textit", "textrm", "textnormal", "mbox", "mathrm", "mathbf", "mathsf")
"""Wrappers taken off a whole answer or ground truth; the longer word first where one starts with another."""

TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
_OPENING = {"{", "(", "[", "\\{", "\\begin", "\\lfloor", "\\lceil", "\\langle"}
_CLOSING = {"}", ")", "]", "\\}", "\\end", "\\rfloor", "\\rceil", "\\rangle"}
_ENCLOSING = {"(": ")", "[": "]", "\\{": "\\}", "\\langle": "\\rangle"}
_ARGUMENTS = {"\\frac": 2, "\\binom": 2, "\\sqrt": 1}

# Only characters with one LaTeX spelling. Unicode minus signs are minus signs; dashes are not.
_UNICODE = str.maketrans(
    {
        "−": "-", "﹣": "-", "－": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "±": r"\pm ",
        "π": r"\pi ", "∞": r"\infty ", "°": r"^\circ ", "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "≈": r"\approx ",
        "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "…": r"\ldots ", "⁄": "/",
        "\u00a0": " ", "\u2009": r"\,", "\u202f": r"\,",
    }
)  # fmt: skip
_UNICODE |= {
    ord(sign): "\\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", sign).split("⁄"))
    for sign in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"
}
_SCRIPTS = {
    "^": re.compile(r"([⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁱⁿˣʸ]+)(?=(\d?))"),
    "_": re.compile(r"([₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₐₑᵢⱼₖₘₙₓ]+)(?=(\d?))"),
}

_REWRITES = [
    (re.compile(r"√\s*(?:\(([^()]+)\)|(\d+(?:\.\d+)?|[A-Za-z]))"), r"\\sqrt{\1\2}"),
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\.?"), ""),
    (re.compile(r"(?<!\\)\\!"), ""),
    (re.compile(r"(?<=\d)(?:\{,\}|\\,)(?=\d{3}(?!\d))"), ""),
    (re.compile(r"\\(?:displaystyle|textstyle|limits|nonumber)(?![A-Za-z])"), ""),
    (re.compile(r"\\(?:quad|qquad|thinspace|enspace)(?![A-Za-z])|(?<!\\)\\[,;:> ]|~"), " "),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"\\lbrace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\le(?![A-Za-z])|\\leqslant|<="), r"\\leq "),
    (re.compile(r"\\ge(?![A-Za-z])|\\geqslant|>="), r"\\geq "),
    (re.compile(r"\\ne(?![A-Za-z])"), r"\\neq "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\(?:dots|dotsc)(?![A-Za-z])|\.\.\."), r"\\ldots "),
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset"),
    # The parser that follows stops at \mathrm, which would turn 1 - 1/e and 1 + 1/e into the same 1.
    (re.compile(r"\\(?:mathrm|text|mathit)\s*\{\s*(e|i|d|\\pi)\s*\}"), r"\1"),
    (re.compile(r"\\operatorname\*?\s*\{\s*(sin|cos|tan|cot|sec|csc|ln|log|exp|arcsin|arccos|arctan)\s*\}"), r"\\\1"),
    (re.compile(r"\\degree(?![A-Za-z])|\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])"), r"^\\circ"),
    (re.compile(r"\\(?:text|mbox|mathrm)\s*\{\s*(,?\s*(?:and|or))\s*\}"), r" \1 "),
    # 10^-3, x^-n and 2^e, which TeX would read as an exponent of one token; where it might go on (e^-2x), it is left.
    (
        re.compile(
            r"(?<!\\)\^\s*([-+]\d+(?![\dA-Za-z_]|\.\d)|(?:[-+][A-Za-z]|e)(?![\dA-Za-z_'({]))(?!\s*[\^!])"
        ),
        r"^{\1}",
    ),
]  # fmt: skip
# What takes all of its braces for its operands: they mean something.
_INFIX = re.compile(r"\\(?:choose|over|atop)(?![A-Za-z])")
# The parser takes these as an exponent in braces only.
_EXPONENT = re.compile(r"(?<!\\)\^\s*(-?\\(?:frac\{[^{}]*\}\{[^{}]*\}|sqrt\{[^{}]*\})|-\\pi(?![A-Za-z]))(?!\s*[\^!])")


def clean(text: str) -> str:
    r"""Spell an answer in one way: wrappers off, Unicode signs as LaTeX, `\dfrac` as `\frac`, arguments in braces.

    Works on any text and never raises. Meaning is kept: two answers with one spelling are the same answer.
    """
    text = unwrap(_scripts(text).translate(_UNICODE))
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = unwrap(" ".join(text.split()))
    if text.endswith(".") and text[-2:-1] not in (".", "\\"):
        text = unwrap(text[:-1])  # the end of a sentence; an ellipsis is \ldots by now
    return _EXPONENT.sub(r"^{\1}", brace_arguments(text))


def _scripts(text: str) -> str:
    """Runs of Unicode's raised and lowered signs as exponents and indices: 10⁻³ is 10^{-3}, x² is x^2, a₁ is a_1."""
    if text.isascii():
        return text
    for mark, pattern in _SCRIPTS.items():

        def written(match: re.Match[str], mark: str = mark) -> str:
            run = unicodedata.normalize("NFKC", match[1])
            return f"{mark}{run}" if len(run) == 1 and not match[2] else f"{mark}{{{run}}}"

        text = pattern.sub(written, text)
    return text


def unwrap(text: str) -> str:
    r"""Take `$ $`, `\( \)`, `\[ \]`, `{ }`, `\boxed{}` and `\text{}` off the whole text, nested or not."""
    text = text.strip()
    for _ in range(MAX_WRAPPERS):
        inner = unwrap_once(text, pairs={}, commands=TEXT_COMMANDS)
        if text[:2] + text[-2:] in (r"\(\)", r"\[\]") and len(text) >= 4 and text[2:].find(text[-2:]) == len(text) - 4:
            inner = text[2:-2].strip()
        if text.startswith("{") and closing_brace(text, 1) == len(text) - 1 and not _INFIX.search(text):
            inner = text[1:-1].strip()
        if inner == text:
            break
        text = inner
    return text


def brace_arguments(text: str) -> str:
    r"""Put the arguments of `\frac`, `\binom` and `\sqrt` in braces, as TeX reads them: `\frac12` is `\frac{1}{2}`."""
    out: list[str] = []
    missing = [0]  # arguments still to come, per open group
    tokens = TOKEN.findall(text)
    for index, token in enumerate(tokens):
        if missing[-1] and token == " ":
            continue
        if token == "[" and index and out and out[-1] == "\\sqrt":
            missing.append(0)  # the optional degree of a root takes no argument's place
        elif token == "]" and len(missing) > 1 and missing[-1] == 0 and "\\sqrt" in out[-8:]:
            missing.pop()
        elif token == "{":
            missing.append(0)
        elif token == "}" and len(missing) > 1:
            missing.pop()
            missing[-1] = max(0, missing[-1] - 1)
        elif missing[-1] and token not in _ARGUMENTS:
            missing[-1] -= 1
            token = "{" + token + "}"
        elif token in _ARGUMENTS:
            missing[-1] = _ARGUMENTS[token]
        out.append(token)
    return "".join(out)


def balanced(text: str) -> bool:
    """True when all brackets close, in order; a bracket may close one of another kind, as in the interval [0, 1)."""
    stack: list[str] = []
    for token in TOKEN.findall(text):
        if token in _OPENING:
            stack.append(token)
        elif token in _CLOSING:
            if not stack:
                return False
            opened = stack.pop()
            if (opened in "([") != (token in ")]") or (opened == "{") != (token == "}"):
                return False
    return not stack


def top_level(text: str) -> Iterator[tuple[int, str, int]]:
    """(index, token, depth) of every token, where depth counts the brackets around it; brackets count as outside."""
    depth = 0
    for match in TOKEN.finditer(text):
        depth -= match[0] in _CLOSING
        yield match.start(), match[0], depth
        depth += match[0] in _OPENING


def split(text: str, separators: frozenset[str] | set[str]) -> list[str]:
    """Split at separator tokens outside all brackets."""
    parts, begin = [], 0
    for index, token, depth in top_level(text):
        if depth == 0 and token in separators:
            parts.append(text[begin:index].strip())
            begin = index + len(token)
    return [*parts, text[begin:].strip()]


def enclosed(text: str) -> tuple[str, str, str] | None:
    r"""(opening, inside, closing) when one pair of `( [ \{ \langle` and their partners encloses the text, else None."""
    tokens = list(top_level(text))
    if len(tokens) < 2 or tokens[0][1] not in _ENCLOSING or tokens[-1][1] not in _ENCLOSING.values():
        return None
    if any(depth == 0 for _, _, depth in tokens[1:-1]):
        return None
    opening, closing = tokens[0][1], tokens[-1][1]
    return opening, text[len(opening) : len(text) - len(closing)].strip(), closing
