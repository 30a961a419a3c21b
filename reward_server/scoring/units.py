"""The unit at the end (or the currency at the start) of an answer."""

from __future__ import annotations

import math
import re

from reward_server.scoring.exact import exact

MAX_CHARS = 80
"""Characters of a unit in words: looking for longer ones takes quadratic time."""
MAX_MAGNITUDES = 2
"""Magnitudes in a row that multiply: "hundred thousand"."""
PERCENT = "%"
"""The one unit that must stand on both sides: 10% is neither 10 nor 0.1."""

_NAMES = {
    "metre": "m", "meter": "m", "kilometre": "km", "kilometer": "km", "centimetre": "cm", "centimeter": "cm",
    "millimetre": "mm", "millimeter": "mm", "inch": "in", "inche": "in", "foot": "ft", "feet": "ft", "yard": "yd",
    "mile": "mi", "gram": "g", "kilogram": "kg", "milligram": "mg", "pound": "lb", "lbs": "lb", "ounce": "oz",
    "second": "s", "sec": "s", "minute": "min", "hour": "h", "hr": "h", "hrs": "h", "kgs": "kg",
    "yr": "year", "yrs": "year", "litre": "l", "liter": "l", "L": "l",
    "millilitre": "ml", "milliliter": "ml", "mL": "ml", "newton": "N", "joule": "J", "watt": "W", "volt": "V",
    "ohm": "Ω", "hertz": "Hz", "pascal": "Pa", "kelvin": "K", "ampere": "A", "dollar": "$", "USD": "$", "euro": "€",
    "EUR": "€", "cent": "cent", "degree": "°", "deg": "°", "percent": PERCENT, "percentage": PERCENT, "pct": PERCENT,
}  # fmt: skip
_MAGNITUDES = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "quadrillion": 10**15, "lakh": 10**5, "crore": 10**7, "dozen": 12,
}  # fmt: skip
_ABBREVIATIONS = re.compile(r"[kcmn]m|[km]?g|m[lL]|ft|yd|mi|lbs?|oz|hrs?|min|sec|[kM]?Hz|k?Pa|kJ|kW|mol")
# A single letter is a unit only after a blank: 5 m is five metres, 5m is five times m.
_LETTERS = frozenset("mgshlLNJWVAKCF")
# In \text no letter is a variable to begin with, but \mathrm{x} may be one.
_LETTERS_IN_TEXT = _LETTERS | set("BHTuΩ")
_SIGNS = frozenset("/%$€£¥₹℃℉")
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d))?"
_COMMAND = r"\\(?:text|mbox|mathrm|textrm|textit)\s*"
_IN_TEXT = re.compile(rf"\s*((?:[/\s]*{_COMMAND}\{{(?:[^{{}}\\]|\^\s*\{{\s*-?\d\s*\}})*\}}{_POWER})+)$")
_IN_WORDS = re.compile(rf"(\s*)((?:[A-Za-z]+{_POWER}(?:\s+|\s*/\s*|$)){{1,4}})$")
_DEGREE = re.compile(r"\s*\^\\circ\s*(?:\\(?:text|mathrm)\s*\{\s*)?([CFK]?)\s*\}?$")
_PERCENT = re.compile(r"\s*(?:\\%|%)$")
_CURRENCY = re.compile(r"(-?)\s*(\\\$|\$|€|£|\\pounds|\\euro)\s*(?=[\d.\\])")
# Letters, perhaps with hyphens, apostrophes or the dots of p.m. between them, and an exponent.
_WORD = re.compile(r"([^\W\d_]+(?:[-.'’][^\W\d_]+)*)(?:\^-?\d)?")
# A prefix is another in other letter case: MW is not mW, nor GB Gb. Of these there is one each.
_ANY_CASE = re.compile(r"kg|[kc]m|ft|lbs?|oz|hrs?")
# By their form: can't, tenfold; CJK numerals, "or", "not".
_NOT_UNITS = re.compile(r".*n['’]t|.+fold|.*[或和不非负零一二三四五六七八九十百千万亿两半].*")
# After a number these words make another number of it, doubt it or set a condition: it is not the value alone.
_OTHER_WORDS = """
and or nor not no is isn't are the to if for of than either neither else otherwise instead versus vs
wrong incorrect incorrectly false maybe perhaps possibly probably something unsure guess guessed cannot unknown
approximately approx about around roughly nearly almost circa ish at below above under over beneath beyond but by
estimate estimated exceeding onwards onward alternatively undefined negative inverse reciprocal oder ou
plus minus divided multiplied added subtracted squared cubed doubled tripled halved twice thrice itself
factorial mod modulo pi sqrt sin cos tan log ln exp infinity mille permille permil repeating recurring
binary octal hex hexadecimal tens score gross mil bn mn tn googol
where when unless except excluding without such that
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
half halves quarter quarters
"""
# The same of these and of magnitudes, also in the plural.
_PARTS_AND_POWERS = """
third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth
seventeenth eighteenth nineteenth twentieth thirtieth fortieth fiftieth sixtieth seventieth eightieth ninetieth
hundredth thousandth millionth billionth trillionth
quintillion sextillion
"""
_IN_PLURAL = [*_PARTS_AND_POWERS.split(), *_MAGNITUDES]
_NO_UNITS = {*_OTHER_WORDS.split(), *_IN_PLURAL, *(f"{name}s" for name in _IN_PLURAL)}
_TRIGONOMETRY = re.compile(r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")


def split_unit(text: str) -> tuple[str, str | None]:
    """(value, unit) of a cleaned text; the unit in one canonical spelling, None where there is none.

    Magnitudes are no units: five million is multiplied out.
    """
    if match := _CURRENCY.match(text):
        sign = {"\\$": "$", "\\pounds": "£", "\\euro": "€"}.get(match[2], match[2])
        amount = text[match.end() :].strip()
        value, rest = _split_words(amount)
        if rest is None or rest == sign:
            return match[1] + value, sign
        return (match[1] + value, f"{sign} {rest}") if rest.startswith("/ ") else (match[1] + amount, sign)
    if match := _PERCENT.search(text):
        return text[: match.start()], PERCENT
    if (match := _DEGREE.search(text)) and not _TRIGONOMETRY.search(text):
        return text[: match.start()], "°" + match[1]
    return _split_words(text)


def agree(gold: str | None, answer: str | None) -> bool:
    """Units on both sides must be the same; one on one side only is accepted, except per cent."""
    if gold is None or answer is None:
        return PERCENT not in (gold or answer or "").split()
    return gold == answer


def _split_words(text: str) -> tuple[str, str | None]:
    r"""(value, unit) where the unit is in words, in `\text{}` or not."""
    if match := _IN_TEXT.search(text):
        value, unit = _multiplied(text[: match.start()].strip(), _plain(match[1]))
        if value and _may_end(value) and all(map(_is_word_of_unit, unit)) and _is_whole(unit):
            return value, _canonical(unit)
    if match := _IN_WORDS.search(text, max(0, len(text) - MAX_CHARS)):
        value, unit = _multiplied(text[: match.start()].strip(), _plain(match[2]))
        if exact(value) is not None and _is_unit(unit, spaced=bool(match[1])) and _is_whole(unit):
            return value, _canonical(unit)
    return text, None


def _plain(unit: str) -> list[str]:
    r"""The words of a unit: `\text{ square meters}`, `metres^{2}`, `per cent` in one word and so on; `/` is a word."""
    unit = re.sub(r"\^\s*\{\s*(-?\d)\s*\}", r"^\1", unit)
    unit = re.sub(_COMMAND + r"\{([^{}]*)\}", r" \1 ", unit).replace("/", " / ")
    unit = re.sub(r"\s*\^\s*", "^", unit)
    unit = re.sub(r"(?i)\bper[\s-]+cent\b", "percent", unit)
    unit = re.sub(r"(?<=[a-z])\s+(squared|cubed)\b", lambda match: "^2" if match[1] == "squared" else "^3", unit)
    unit = re.sub(r"(?<=[A-Za-z])\s+an?\s+(?=[A-Za-z])", " / ", unit)  # dollars a day
    return [word for part in unit.split() if (word := part.strip("."))]


def _multiplied(value: str, unit: list[str]) -> tuple[str, list[str]]:
    """Value and unit, with the magnitudes that the unit begins with multiplied in: `5 million yuan` is 5000000 yuan."""
    sizes: list[int] = []
    for word in unit[:MAX_MAGNITUDES]:
        size = _MAGNITUDES.get(word.lower().removesuffix("s"))
        if size is None:
            break
        sizes.append(size)
    number = exact(value) if sizes else None
    return (value, unit) if number is None else (str(number * math.prod(sizes)), unit[len(sizes) :])


def _canonical(words: list[str]) -> str | None:
    """One spelling of a unit: square meters, metres^2 and m^2 are all `m^2`; None where no unit is named."""
    out: list[str] = []
    power = ""
    for word in words:
        if word.lower() in ("square", "sq", "cubic", "cu"):
            power = "^2" if word.lower().startswith("sq") else "^3"
            continue
        name, caret, exponent = word.partition("^")
        out.append("/" if name == "per" else _name(name) + (caret + exponent or power))
        power = ""
    return " ".join(out) if out and out[-1] != "/" and not power else None


def _is_whole(words: list[str]) -> bool:
    """False where something is still to come: square, miles per."""
    return not words or _canonical(words) is not None


def _name(word: str) -> str:
    if word in _NAMES or _ABBREVIATIONS.fullmatch(word) or len(word) == 1:
        return _NAMES.get(word, word)
    lower = word.lower()
    singular = lower[:-1] if lower.endswith("s") and len(lower) > 3 else lower
    if name := _NAMES.get(lower, _NAMES.get(singular)):
        return name
    if _ANY_CASE.fullmatch(lower):
        return lower
    is_symbol = word.isalpha() and (
        len(word) <= 2 or (word[1:] != lower[1:] and not (word.isupper() and len(word) > 3))
    )
    return word if is_symbol else singular


def _is_word_of_unit(word: str) -> bool:
    r"""True for a word that a unit in `\text{}` may have: any but those which change or doubt the number before it."""
    if word in _SIGNS:
        return True
    match = _WORD.fullmatch(word)
    if match is None or (len(match[1]) == 1 and match[1] not in _LETTERS_IN_TEXT):
        return False
    return _may_be_unit(match[1])


def _may_be_unit(name: str) -> bool:
    """False for a word of `_NO_UNITS`, also at the end of a compound: one-third, but not two-digit."""
    parts = name.lower().split("-")
    if _NOT_UNITS.fullmatch(name.lower()):
        return False
    return name.lower() not in _NO_UNITS and parts[-1] not in _NO_UNITS and "half" not in parts


def _is_unit(words: list[str], spaced: bool) -> bool:
    names = [name for word in words if (name := word.partition("^")[0]) != "/"]
    return all(map(_may_be_unit, names)) and all(
        (len(name) > 1 and _ABBREVIATIONS.fullmatch(name))
        or name in _NAMES
        or (spaced and (len(name) > 2 or name in _LETTERS or name == "in" or name in ("sq", "cu")))
        for name in names
    )


def _may_end(value: str) -> bool:
    """True when a value may end here: no operator waits for what follows."""
    return value[-1] not in "+-*/=<>^_,(" and not re.search(r"\\(?:cdot|times|div|pm|cup|in|leq|geq|neq)$", value)
