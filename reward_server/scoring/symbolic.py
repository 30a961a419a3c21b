"""Equality of two expressions by Math-Verify, behind guards (docs/rewards.md, Mathematics). Slow: for workers only.

Math-Verify parses (LaTeX to SymPy) and has the last word. The guards before it make up for what it forgives: it drops
units and words, forgets letter case, rounds floats, calls very small differences zero and evaluates sums.
"""

from __future__ import annotations

import functools
import logging
import re

import sympy
from antlr4 import PredictionMode
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy
from latex2sympy2_extended.logic import And
from math_verify import verify
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

from reward_server.scoring.bounds import refusal
from reward_server.scoring.exact import exact
from reward_server.scoring.structure import is_words

_logger = logging.getLogger(__name__)
logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that we switched its signal-based timeout off

DIGITS = 100
"""Significant digits to which two equal values must agree before Math-Verify is asked at all."""

PARSED = 256
"""Expressions whose tree is remembered: a group of samples has one ground truth."""

_CONFIG = ConversionConfig(interpret_as_mixed_fractions=False, lowercase_symbols=False)
# The parser drops or misreads these: quotes and other signs, numerals with a subscript or beside another numeral or
# after a root or fraction, numerals under a bar, words, dots.
_MISREAD = re.compile(
    r"['\"%$#&?@~`;:]|\d_|\d\s+\d"
    r"|\\(?:sqrt|frac\{[^{}]*\})\{[^{}]*\}\s*\d|\\(?:overline|bar|dot)\{\d"
    r"|\\(?:text|mbox|mathrm|operatorname|circ|mid|ldots|cdots)(?![A-Za-z])"
)
_CALL = re.compile(r"[A-Za-z]\s*[({]|\\(?:sin|cos|tan|cot|sec|csc|log|ln|exp)")
_POWER = re.compile(r"(?<![\\A-Za-z_])([a-cf-hj-zA-Z])\s*\^")
# Read as a transpose, which is dropped from whatever is no matrix: A^T would be A, and 2^T would be 2.
_TRANSPOSE = re.compile(r"\^\s*(?:T(?![A-Za-z])|\{\s*T\s*\})")
_LONG_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{4,}")
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "==": "==", "!=": "!="}
_LEFT_TO_DO = (sympy.Derivative, sympy.Integral, sympy.Limit, sympy.Sum, sympy.Product)
# What is to be found of two numbers: the parser finds some of it by itself.
_OF_NUMBERS = re.compile(r"\\(?:gcd|lcm|max|min|[bp]?mod)(?![A-Za-z])|(?<![A-Za-z])(?:gcd|lcm|max|min|mod)(?![A-Za-z])")
_SAMPLES = (sympy.Rational(37, 100), sympy.Rational(173, 100), sympy.Integer(3))


def good(text: str) -> bool:
    """True when an expression of a ground truth can be parsed whole."""
    return _parse(text) is not None


def same(gold: str, answer: str) -> bool:
    """True when two expressions (or two relations) are mathematically equal. No numeric tolerance.

    An answer that still has to be integrated, differentiated or summed, or whose limit is to be taken, is wrong unless
    the ground truth has the like; where that is a plain number, so is an unevaluated sum or product of numbers.
    """
    wanted, given = _parse(gold), _parse(answer)
    if wanted is None or given is None:
        return False
    if any(given.has(kind) and not wanted.has(kind) for kind in _LEFT_TO_DO):
        return False
    if exact(gold) is not None and (_has_unevaluated(given) or _OF_NUMBERS.search(answer)):
        return False
    try:
        return _equal(wanted, given)
    except (MemoryError, RecursionError, SystemError):
        raise  # the worker's limits, which are another verdict
    except Exception as error:
        # What has no value (a sum that diverges, 5 mod 0) equals nothing. An error here would be the answer's choice:
        # it would take its zero out of the mean, and some trainers stop at the first.
        _logger.warning("no value: %s", f"{type(error).__name__}: {error}"[:200])
        return False


def _equal(gold: sympy.Basic, answer: sympy.Basic) -> bool:
    if _is_relation(gold) or _is_relation(answer):
        if not _is_relation(gold) or not _is_relation(answer):
            return False
        if not all(isinstance(side, sympy.Expr) for link in (*_links(gold), *_links(answer)) for side in link.args):
            return gold == answer  # of (x, y) = (1, 2) or of a matrix there is no difference to form
        return _same_relations(_chain(gold), _chain(answer))
    if isinstance(gold, sympy.MatrixBase | sympy.MatrixExpr) or isinstance(answer, sympy.MatrixBase | sympy.MatrixExpr):
        return _same_matrices(gold.doit(), answer.doit())
    if not isinstance(gold, sympy.Expr) or not isinstance(answer, sympy.Expr):
        return gold == answer
    if gold == answer:
        return True
    if not _numerically_equal(gold, answer):
        return False
    if sympy.expand(_plain(gold) - _plain(answer)) == 0:  # settles most that are equal, faster than Math-Verify
        return True
    return verify(gold, answer, timeout_seconds=None, raise_on_error=True)


@functools.lru_cache(maxsize=PARSED)
def _parse(text: str) -> sympy.Basic | None:
    prepared = _prepare(text)
    if refusal(text) or _MISREAD.search(prepared):
        return None
    if any(is_words(word) for word in _LONG_WORD.findall(text)):
        return None  # a word is no product of letters: listen is not silent
    is_real = None if _has_imaginary_unit(text) else True
    # Where the fast prediction succeeds, ANTLR guarantees the tree of the full one, which takes four times as long.
    for mode, spelled in ((PredictionMode.SLL, _braced_powers(prepared)), (PredictionMode.LL, prepared)):
        try:
            parsed = _Whole(mode, is_real=is_real, config=_CONFIG).parse(spelled)
        except (MemoryError, RecursionError):
            raise
        except Exception:
            # The parser raises bare Exception for syntax errors, and whatever its conversion stumbles over besides.
            continue
        return None if parsed.has(sympy.zoo, sympy.nan) else parsed  # 1/0 is no value
    return None


class _Whole(_Latex2Sympy):
    """Refuses an input of which the grammar read only the beginning.

    Args:
        mode: how far ANTLR looks around for its predictions.
    """

    def __init__(self, mode: int, **options):
        super().__init__(**options)
        self._mode = mode

    def create_parser(self, latex_str):
        self._parser = super().create_parser(latex_str)
        self._parser._interp.predictionMode = self._mode
        return self._parser

    def parse_number(self, text: str) -> sympy.Number:
        digits = text.replace(",", "")
        if digits.isascii() and digits.isdecimal():
            return sympy.Integer(int(digits))  # SymPy would compile and run the numeral as Python
        return super().parse_number(text)

    def parse(self, latex_str: str) -> sympy.Basic:
        parsed = super().parse(latex_str)
        if self._parser.getCurrentToken().type != -1:
            raise ValueError("text left after the expression")
        if not self.is_real and isinstance(parsed, sympy.Expr):
            parsed = parsed.xreplace({sympy.Symbol("i"): sympy.I})
        return parsed


def _prepare(text: str) -> str:
    """Decimals as fractions, so that nothing is ever rounded; degrees as radians; products of numerals written out."""
    text = re.sub(r"(\d+(?:\.\d+)?)\s*\^\\circ", r"(\\frac{\1\\pi}{180})", text)
    text = re.sub(r"(\d*)\.(\d+)", lambda m: f"\\frac{{{int(m[1] + m[2])}}}{{{10 ** len(m[2])}}}", text)
    text = re.sub(r"(\d)\.(?!\d)", r"\1", text)
    text = re.sub(r"_(\w)", r"_{\1}", text)
    if "\\begin" not in text:
        text = _TRANSPOSE.sub("^{(T)}", text)
    # A mixed number as one fraction; left alone, 2(3) and 2 1/3 are both read as sums.
    text = re.sub(r"(?<![\d}^_])(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}", _mixed, text)
    text = re.sub(r"(?<=[\d)])\s*\(", r"\\cdot (", text)
    return re.sub(r"(?<=\d)\s*(?=\\frac)", r"\\cdot ", text)


def _braced_powers(text: str) -> str:
    """`{x}^2` for `x^2`, on which the fast prediction fails; not in e^x, nor where braces would undo a call f(x)."""
    return text if _CALL.search(text) else _POWER.sub(r"{\1}^", text)


def _mixed(match: re.Match) -> str:
    whole, above, below = (int(group) for group in match.groups())
    if above >= below:
        return f"{whole}\\cdot \\frac{{{above}}}{{{below}}}"
    return f"(\\frac{{{whole * below + above}}}{{{below}}})"


def _has_imaginary_unit(text: str) -> bool:
    text = re.sub(r"\\(?:mathbf|hat|vec|bar|overline)\s*\{\s*i\s*\}", "", text)  # a unit vector
    return "i" in re.sub(r"\\[A-Za-z]+", "", text) and not re.search(r"_\s*\{?\s*i", text)  # an index


def _has_unevaluated(expr: sympy.Basic) -> bool:
    """True when a sum or product somewhere in the tree has two or more operands that are plain numbers."""
    for node in sympy.preorder_traversal(expr):
        if isinstance(node, sympy.Add) and sum(map(_is_rational, node.args)) > 1:
            return True
        if isinstance(node, sympy.Mul) and _is_product(node):
            return True
    return False


def _is_product(node: sympy.Mul) -> bool:
    above = [arg for arg in node.args if _is_rational(arg) and arg not in (1, -1) and not _is_reciprocal(arg)]
    powers_of_ten = [arg for arg in above if isinstance(arg, sympy.Pow) and arg.base == 10]
    return len(above) > 1 and not (len(above) == 2 and len(powers_of_ten) == 1)


def _is_reciprocal(arg: sympy.Basic) -> bool:
    return isinstance(arg, sympy.Pow) and arg.exp == -1 and arg.base.is_Integer


def _is_rational(arg: sympy.Basic) -> bool:
    return bool(arg.is_Rational) or (isinstance(arg, sympy.Pow | sympy.factorial) and bool(arg.doit().is_Rational))


def _numerically_equal(gold: sympy.Expr, answer: sympy.Expr) -> bool:
    """A necessary condition: the values agree to `DIGITS` digits, relative to their size, at fixed sample points.

    Math-Verify takes a difference below 1e-15 for zero, whatever the size of the operands: 1/2004! is not 1/2006!.
    """
    gold, answer = _plain(gold), _plain(answer)
    names = sorted(gold.free_symbols | answer.free_symbols, key=str)
    if not names and gold.is_Rational and answer.is_Rational:
        return gold == answer
    for sample in _SAMPLES if names else _SAMPLES[:1]:
        point = {name: sample + index for index, name in enumerate(names)}
        if _differ(gold.subs(point), answer.subs(point)):
            return False
    return True


def _differ(gold: sympy.Expr, answer: sympy.Expr) -> bool:
    one, other = gold.evalf(DIGITS), answer.evalf(DIGITS)
    if not (one.is_number and other.is_number and one.is_finite and other.is_finite):
        return False  # no value at this point; Math-Verify decides
    size = max(abs(one), abs(other))
    if not size:
        return False
    gap = abs((gold - answer).evalf(DIGITS, maxn=10 * DIGITS))
    return bool(gap > size * sympy.Float(10, DIGITS) ** (20 - DIGITS))


def _plain(expr: sympy.Expr) -> sympy.Expr:
    """Evaluate what is lazy, and take a function that nobody defined for a variable of its own."""
    return expr.replace(lambda node: isinstance(node, AppliedUndef), lambda node: sympy.Symbol(str(node))).doit()


def _same_matrices(gold: sympy.Basic, answer: sympy.Basic) -> bool:
    if not isinstance(gold, sympy.MatrixBase) or not isinstance(answer, sympy.MatrixBase) or gold.shape != answer.shape:
        return False
    return all(_equal(one, other) for one, other in zip(gold, answer, strict=True))


def _is_relation(expr: sympy.Basic) -> bool:
    return isinstance(expr, Relational) or (
        isinstance(expr, And) and all(isinstance(arg, Relational) for arg in expr._unsorted_args)
    )


def _chain(expr: sympy.Basic) -> list[tuple[str, sympy.Expr]]:
    """`a < b <= c` as [("<", b - a), ("<=", c - b)], in the order written."""
    return [(link.rel_op, link.rhs - link.lhs) for link in _links(expr)]


def _links(expr: sympy.Basic) -> tuple[sympy.Basic, ...]:
    return expr._unsorted_args if isinstance(expr, And) else (expr,)


def _same_relations(gold: list[tuple[str, sympy.Expr]], answer: list[tuple[str, sympy.Expr]]) -> bool:
    flipped = [(_FLIPPED[op], -difference) for op, difference in reversed(answer)]
    return any(len(gold) == len(other) and all(map(_same_link, gold, other)) for other in (answer, flipped))


def _same_link(gold: tuple[str, sympy.Expr], answer: tuple[str, sympy.Expr]) -> bool:
    """One relation is the other times a constant: any but zero for `=` and `≠`, a positive one for the others."""
    if gold[0] != answer[0]:
        return False
    if gold[1].doit() == 0 or answer[1].doit() == 0:
        return gold[1].doit() == answer[1].doit()
    factor = sympy.simplify(gold[1] / answer[1])
    if not factor.is_number or not factor.is_finite:
        return False
    return bool(factor.is_positive) or (gold[0] in ("==", "!=") and bool(factor.is_nonzero))
