"""Arithmetic written by a model, read without running it.

`sympy.parse_expr`, which some verifiers use, evaluates Python: a model's answer could run code or never end. What passes `is_harmless` is
made of numbers, variables, + - * / **, brackets and a few functions, and has no powers large enough to keep a machine busy. Whether one
expression is an integral of another is found by numbers (`is_integral`), in about a millisecond; `sympy.simplify` took 35 seconds for an
answer of 80 factors.
"""

from __future__ import annotations

import ast
import cmath
from collections.abc import Callable, Sequence
from fractions import Fraction

LONGEST = 600
"""Characters of an expression."""

_LARGEST = 10**9
_DEGREE = 200  # of the polynomial, or of the number, that multiplying out would give
_Function = tuple[Callable[[complex], complex], Callable[[complex], complex]]

_FUNCTIONS: dict[str, _Function] = {  # each with its derivative
    "sin": (cmath.sin, cmath.cos),
    "cos": (cmath.cos, lambda z: -cmath.sin(z)),
    "tan": (cmath.tan, lambda z: 1 / cmath.cos(z) ** 2),
    "asin": (cmath.asin, lambda z: 1 / cmath.sqrt(1 - z * z)),
    "acos": (cmath.acos, lambda z: -1 / cmath.sqrt(1 - z * z)),
    "atan": (cmath.atan, lambda z: 1 / (1 + z * z)),
    "sinh": (cmath.sinh, cmath.cosh),
    "cosh": (cmath.cosh, cmath.sinh),
    "tanh": (cmath.tanh, lambda z: 1 / cmath.cosh(z) ** 2),
    "exp": (cmath.exp, cmath.exp),
    "log": (cmath.log, lambda z: 1 / z),
    "ln": (cmath.log, lambda z: 1 / z),
    "sqrt": (cmath.sqrt, lambda z: 1 / (2 * cmath.sqrt(z))),
    "Abs": (lambda z: complex(abs(z)), lambda z: z / abs(z)),
}
_CONSTANTS = {"pi": cmath.pi}
_POINTS = (-11.3, -7.7, -5.1, -2.83, -2.17, -1.39, -0.91, -0.47, -0.29, -0.13, 0.07, 0.19, 0.31, 0.43, 0.83, 1.27, 2.51, 5.9, 8.3, 12.1)
_FEWEST = 3  # points at which there must be something to compare
_CLOSE = 1e-7
_EXACT: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


def exact_value(text: str) -> tuple[Fraction, Sequence[int]] | None:
    """The value of + - * / over whole numbers, and those numbers in order; None where the text is anything else, or divides by 0."""
    tree = _parsed(text)
    numbers: list[int] = []
    try:
        return None if tree is None else (_exact(tree, numbers), numbers)
    except (ValueError, ZeroDivisionError):
        return None


def is_harmless(text: str) -> bool:
    """Whether the text is an expression that is safe to evaluate; see the module."""
    tree = _parsed(text)
    if tree is None:
        return False
    try:
        return _degree(tree) <= _DEGREE
    except (ValueError, ZeroDivisionError):
        return False


def is_integral(text: str, integrand: str, variable: str) -> bool:
    """Whether the derivative of `text` is `integrand`, at all points of a fixed set where the integrand is real (an added C is allowed).

    Derivatives are exact to rounding (dual numbers). Only expressions that are harmless, of single-letter names, are an integral of
    anything here: an `Integral(...)` left to do is none.
    """
    answer, asked = _parsed(text), _parsed(integrand)
    if answer is None or asked is None or not (is_harmless(text) and is_harmless(integrand)):
        return False
    compared = 0
    for point in _POINTS:
        wanted, found = _dual(asked, variable, point), _dual(answer, variable, point)
        if wanted is None or abs(wanted[0].imag) > _CLOSE:
            continue
        if found is None or abs(found[1] - wanted[0]) > _CLOSE * (1 + abs(wanted[0])):
            return False
        compared += 1
    return compared >= _FEWEST


def _parsed(text: str) -> ast.expr | None:
    if len(text) > LONGEST:
        return None
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _exact(node: ast.expr, numbers: list[int]) -> Fraction:
    match node:
        case ast.Constant(value=int(number)) if not isinstance(number, bool) and number <= _LARGEST:
            numbers.append(number)
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_exact(operand, numbers)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _EXACT:
            return _EXACT[type(operator)](_exact(left, numbers), _exact(right, numbers))
    raise ValueError("not + - * / of whole numbers")


def _degree(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool) and abs(number) <= _LARGEST:
            return Fraction(1)
        case ast.Name(id=name) if len(name) == 1 or name in _CONSTANTS:
            return Fraction(1)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            return _degree(operand)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
            return _degree(argument)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=right):
            return max(_degree(left), _degree(right))
        case ast.BinOp(left=left, op=ast.Mult() | ast.Div(), right=right):
            return _degree(left) + _degree(right)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_degree(left), right)
    raise ValueError("not an expression that is let through")


def _power(base: Fraction, exponent: ast.expr) -> Fraction:
    if any(isinstance(part, ast.Name) for part in ast.walk(exponent)):
        return base + _degree(exponent)  # a power with a variable in its exponent stays as it is written
    return base * max(Fraction(1), abs(_exact(exponent, [])))


_Dual = tuple[complex, complex]


def _dual(node: ast.expr, variable: str, point: float) -> _Dual | None:
    """Value and derivative at a point; None where there is none."""
    try:
        value, slope = _value_and_slope(node, variable, complex(point))
    except (ArithmeticError, ValueError):
        return None
    return (value, slope) if cmath.isfinite(value) and cmath.isfinite(slope) else None


def _value_and_slope(node: ast.expr, variable: str, point: complex) -> _Dual:
    match node:
        case ast.Constant(value=int() | float() as number):
            return complex(number), 0j
        case ast.Name(id=name):
            return (point, 1 + 0j) if name == variable else (complex(_CONSTANTS.get(name, 1.0)), 0j)
        case ast.UnaryOp(op=operator, operand=operand):
            value, slope = _value_and_slope(operand, variable, point)
            return (-value, -slope) if isinstance(operator, ast.USub) else (value, slope)
        case ast.Call(func=ast.Name(id=name), args=[argument]):
            value, slope = _value_and_slope(argument, variable, point)
            return _FUNCTIONS[name][0](value), _FUNCTIONS[name][1](value) * slope
        case ast.BinOp(left=left, op=operator, right=right):
            return _combined(operator, _value_and_slope(left, variable, point), _value_and_slope(right, variable, point))
    raise ValueError("not an expression that is let through")


def _combined(operator: ast.operator, left: _Dual, right: _Dual) -> _Dual:
    (a, da), (b, db) = left, right
    match operator:
        case ast.Add():
            return a + b, da + db
        case ast.Sub():
            return a - b, da - db
        case ast.Mult():
            return a * b, da * b + a * db
        case ast.Div():
            return a / b, (da * b - a * db) / (b * b)
    return a**b, _power_slope(a, da, b, db)


def _power_slope(a: complex, da: complex, b: complex, db: complex) -> complex:
    if db == 0:
        return 0j if b == 0 else b * a ** (b - 1) * da
    return a**b * (db * cmath.log(a) + b * da / a)
