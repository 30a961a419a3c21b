"""Values as a reader sees them: numbers with units, names in words, nothing invisible."""

from __future__ import annotations

import unicodedata

UNKNOWN = "–"
NAMES = {
    "gpr": "general-purpose reasoning (gpr)",
    "math": "mathematics (math)",
    "mcq": "multiple choice (mcq)",
    "open": "open-ended (open)",
}


def pct(value: float | None) -> str:
    """A share as per cent."""
    return UNKNOWN if value is None else f"{100 * value:.1f} %"


def points(value: float | None) -> str:
    """A difference of shares in percentage points, always with its sign."""
    if value is None:
        return UNKNOWN
    text = f"{100 * value:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def number(value: float | None, digits: int = 1) -> str:
    """A plain number with thousands apart."""
    return UNKNOWN if value is None else f"{value:,.{digits}f}".replace(",", "\u202f")


def duration(seconds: float | None) -> str:
    """Seconds as hours, minutes, seconds."""
    if seconds is None:
        return UNKNOWN
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def plain(value: object) -> str:
    """A value as it stands, or the sign for unknown."""
    return UNKNOWN if value is None or value == "" else str(value)


def visible(text: str) -> str:
    """`text` with every character that would not show (control, bidi, zero width, surrogate) spelled out."""
    return "".join(_visible(c) for c in text)


def _visible(character: str) -> str:
    if character in "\n ":
        return character
    if character == "\t":
        return "⇥\t"
    category = unicodedata.category(character)
    if category in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") or (category == "Zs" and character != " "):
        code = ord(character)
        return chr(0x2400 + code) if code < 0x20 else f"‹U+{code:04X}›"
    return character
