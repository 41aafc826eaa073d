"""Reads the calls of `lk.course.expect` in a notebook: the words that they quote, and how exact they are."""

import ast
import re
from typing import NamedTuple

import numpy as np

EXPONENT = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
NUMBER = re.compile(
    r"(?P<about>\b(?:about|around|nearly|almost|roughly|some) )?"
    r"(?<![\w.])(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?P<part>\.\d+)?"
    r"(?:(?: ?[·×] ?10(?P<power>[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+))|(?P<scale> ?%| percent| thousandths| million))?"
)
SCALES = {"%": 0.01, "percent": 0.01, "thousandths": 0.001, "million": 1e6}
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
TOLERANT = re.compile(r"isclose|allclose|approx|abs\([^()]* - [\d.]+\)")


class Expectation(NamedTuple):
    """A call of expect in a cell. `wanted` is None if it is computed, and True for a condition."""

    words: str
    value: ast.expr
    wanted: object
    within: object


def constant(node, otherwise=None):
    """Return the value of an expression that contains only numbers, or None."""
    if node is None:
        return otherwise
    try:
        return eval(compile(ast.Expression(node), "cell", "eval"), {"__builtins__": {}})
    except NameError:
        return None


def expectations(source):
    """Return the calls of expect in the code of a cell. Raises AssertionError if the words are not written out."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("course.expect"):
            arguments = dict(zip(("words", "value", "wanted", "within"), node.args, strict=False))
            arguments |= {keyword.arg: keyword.value for keyword in node.keywords}
            words = constant(arguments["words"])
            assert isinstance(words, str), f"write the quoted words as a string: {ast.unparse(node)}"
            wanted, within = constant(arguments.get("wanted"), True), constant(arguments.get("within"), 0.0)
            found.append(Expectation(words, arguments["value"], wanted, within))
    return found


def printed(words):
    """Return the numbers in some words, each with the unit of its last printed digit.

    "0.249" has the unit 0.001, and "about 150" the unit 10. "11%" stands for 11 as well as for 0.11.
    """
    numbers = []
    for match in NUMBER.finditer(words):
        whole, part = match["whole"].replace(",", ""), match["part"] or ""
        zeros = min(len(whole) - len(whole.rstrip("0")), len(whole) - 2) if match["about"] and not part else 0
        power = 10.0 ** int((match["power"] or "0").translate(EXPONENT))
        unit = 10.0 ** (max(zeros, 0) or -max(len(part) - 1, 0)) * power
        value = float(whole + part) * power
        numbers.append((value, unit))
        if scale := (match["scale"] or "").strip():
            numbers.append((value * SCALES[scale], unit * SCALES[scale]))
    for value, word in enumerate(WORDS):
        if re.search(rf"\b{word}\b", words, flags=re.I):
            numbers.append((float(value), 1.0))
    return numbers


def plain(text):
    """Return Markdown text without its marks and with single spaces."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return " ".join(re.sub(r"[*`]", "", text).split())


def times(words, text):
    """Count how often some words occur in Markdown text. "0.24" does not occur in "0.249"."""
    return len(re.findall(rf"(?<![\w.]){re.escape(plain(words))}(?!\w|\.\d)", plain(text)))


def elements(expectation):
    """Yield each number that a call wants, its tolerance, and how the words print it: value and unit, or None."""
    if expectation.wanted is None or expectation.wanted is True:
        return
    numbers = printed(expectation.words)
    for wanted, within in zip(*map(np.ravel, np.broadcast_arrays(expectation.wanted, expectation.within)), strict=True):
        fits = [(abs(abs(wanted) - value), unit, value) for value, unit in numbers]
        fits = [(value, unit) for distance, unit, value in sorted(fits) if distance <= 0.51 * unit]
        yield float(wanted), float(within), fits[0] if fits else None


def fault(expectation):
    """Return what is wrong with a call of expect, or an empty string."""
    if expectation.wanted is True:
        tolerant = TOLERANT.search(ast.unparse(expectation.value))
        return f"use wanted and within instead of {tolerant[0]}" if tolerant else ""
    if expectation.within is None:
        return "within must be a number"
    for wanted, within, fit in elements(expectation):
        if fit is None:
            return f"the words do not print {wanted:g}"
        if not within < 2 * fit[1] - abs(abs(wanted) - fit[0]):
            return f"within = {within:g} must be less than twice the last printed digit of {wanted:g}"
    return ""
