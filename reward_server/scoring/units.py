"""The unit at the end (or the currency at the start) of an answer."""

from __future__ import annotations

import re

from reward_server.scoring.exact import exact

MAX_CHARS = 80
"""Characters of a unit in words: looking for longer ones takes quadratic time."""
PERCENT = "%"
"""The one unit that must stand on both sides: 10% is neither 10 nor 0.1."""

_NAMES = {
    "metre": "m", "meter": "m", "kilometre": "km", "kilometer": "km", "centimetre": "cm", "centimeter": "cm",
    "millimetre": "mm", "millimeter": "mm", "inch": "in", "inche": "in", "foot": "ft", "feet": "ft", "yard": "yd",
    "mile": "mi", "gram": "g", "kilogram": "kg", "milligram": "mg", "pound": "lb", "lbs": "lb", "ounce": "oz",
    "second": "s", "sec": "s", "minute": "min", "hour": "h", "hr": "h", "litre": "l", "liter": "l", "L": "l",
    "millilitre": "ml", "milliliter": "ml", "mL": "ml", "newton": "N", "joule": "J", "watt": "W", "volt": "V",
    "ohm": "Ω", "hertz": "Hz", "pascal": "Pa", "kelvin": "K", "ampere": "A", "dollar": "$", "USD": "$", "euro": "€",
    "EUR": "€", "cent": "cent", "degree": "°", "deg": "°", "percent": PERCENT, "percentage": PERCENT, "pct": PERCENT,
}  # fmt: skip
_ABBREVIATIONS = re.compile(r"[kcmn]m|[km]?g|m[lL]|ft|yd|mi|lbs?|oz|hrs?|min|sec|[kM]?Hz|k?Pa|kJ|kW|mol")
# A single letter is a unit only after a blank: 5 m is five metres, 5m is five times m.
_LETTERS = frozenset("mgshlLNJWVAKCF")
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d))?"
_IN_TEXT = re.compile(rf"\s*((?:[/\s]*\\(?:text|mbox|mathrm|textrm|textit)\s*\{{[^{{}}\\]*\}}{_POWER})+)$")
_IN_WORDS = re.compile(rf"(\s*)((?:[A-Za-z]+{_POWER}(?:\s+|\s*/\s*|$)){{1,4}})$")
_DEGREE = re.compile(r"\s*\^\\circ\s*(?:\\(?:text|mathrm)\s*\{\s*)?([CFK]?)\s*\}?$")
_PERCENT = re.compile(r"\s*(?:\\%|%)$")
_CURRENCY = re.compile(r"(-?)\s*(\\\$|\$|€|£|\\pounds|\\euro)\s*(?=[\d.\\])")
_NO_UNITS = frozenset(["and", "or", "not", "is", "are", "the", "to", "if", "for", "of", "no", "than"])
_TRIGONOMETRY = re.compile(r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")


def split_unit(text: str) -> tuple[str, str | None]:
    """(value, unit) of a cleaned text; the unit in one canonical spelling, None where there is none."""
    if match := _CURRENCY.match(text):
        sign = {"\\$": "$", "\\pounds": "£", "\\euro": "€"}.get(match[2], match[2])
        return match[1] + text[match.end() :].strip(), sign
    if match := _PERCENT.search(text):
        return text[: match.start()], PERCENT
    if (match := _DEGREE.search(text)) and not _TRIGONOMETRY.search(text):
        return text[: match.start()], "°" + match[1]
    if match := _IN_TEXT.search(text):
        value, unit = text[: match.start()].strip(), canonical(match[1])
        if value and unit and _may_end(value):
            return value, unit
    if (match := _IN_WORDS.search(text, max(0, len(text) - MAX_CHARS))) and _is_unit(match[2], spaced=bool(match[1])):
        value = text[: match.start()].strip()
        if exact(value) is not None:
            return value, canonical(match[2])
    return text, None


def agree(gold: str | None, answer: str | None) -> bool:
    """Units on both sides must be the same; one on one side only is accepted, except per cent."""
    if gold is None or answer is None:
        return PERCENT not in (gold, answer)
    return gold == answer


def canonical(unit: str) -> str:
    r"""One spelling of a unit: `\text{ square meters}`, `metres^2` and `m^{2}` are all `m^2`."""
    unit = re.sub(r"\\(?:text|mbox|mathrm|textrm|textit)\s*\{([^{}]*)\}", r" \1 ", unit)
    unit = re.sub(r"\^\s*\{\s*(-?\d)\s*\}", r"^\1", unit).replace("/", " / ")
    unit = re.sub(r"\s*\^\s*", "^", unit)
    out: list[str] = []
    power = ""
    for word in unit.strip(" .").split():
        if word.lower() in ("square", "sq", "cubic", "cu"):
            power = "^2" if word.lower().startswith("sq") else "^3"
            continue
        if word == "^2" or word == "^3":
            out[-1:] = [(out[-1] if out else "") + word]
            continue
        name, caret, exponent = word.partition("^")
        out.append("/" if name == "per" else _name(name) + (caret + exponent or power))
        power = ""
    return " ".join(out)


def _name(word: str) -> str:
    if word in _NAMES or _ABBREVIATIONS.fullmatch(word) or len(word) == 1:
        return _NAMES.get(word, word)
    lower = word.lower()
    singular = lower[:-1] if lower.endswith("s") and len(lower) > 3 else lower
    return _NAMES.get(lower, _NAMES.get(singular, singular))


def _is_unit(words: str, spaced: bool) -> bool:
    names = re.findall(r"[A-Za-z]+", words)
    if any(name.lower() in _NO_UNITS for name in names):
        return False
    return all(
        (len(name) > 1 and _ABBREVIATIONS.fullmatch(name))
        or name in _NAMES
        or (spaced and (len(name) > 2 or name in _LETTERS or name == "in" or name in ("sq", "cu")))
        for name in names
    )


def _may_end(value: str) -> bool:
    """True when a value may end here: no operator waits for what follows."""
    return value[-1] not in "+-*/=<>^_,(" and not re.search(r"\\(?:cdot|times|div|pm|cup|in|leq|geq|neq)$", value)
