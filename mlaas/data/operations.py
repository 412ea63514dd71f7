"""Arithmetic on branches: what the expression language computes, on values already brought to the same shape.

Whole numbers never wrap where physicists would not expect it: bool and integers narrower than 64 bits are computed as int64, unsigned
64-bit ones as float64 as soon as a sign is involved, powers that could pass 64 bits and every quotient as float64. Functions such as log
take integers as float64. float32 with numbers of the text stays float32. Operands are arrays or plain Python numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Operand: TypeAlias = Any  # a NumPy array, or a Python bool, int or float

CONSTANTS: Mapping[str, float] = {"pi": math.pi, "e": math.e, "inf": math.inf, "nan": math.nan}


def is_whole(value: Operand) -> bool:
    """Whether the operand holds booleans or integers."""
    return value.dtype.kind in "biu" if isinstance(value, np.ndarray) else isinstance(value, int)


def is_bool(value: Operand) -> bool:
    return value.dtype.kind == "b" if isinstance(value, np.ndarray) else isinstance(value, bool)


def _is_uint64(value: Operand) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint64


def _as(value: Operand, dtype: type[np.generic]) -> Operand:
    if isinstance(value, np.ndarray):
        return value.astype(dtype, copy=False)
    return float(value) if dtype is np.float64 else int(value)


def common(values: Sequence[Operand], *, signed: bool = False) -> list[Operand]:
    """Bring whole numbers to one type that holds them all; leave the operands as they are when one is floating.

    signed: the operation can turn unsigned values negative.
    """
    if not all(is_whole(value) for value in values):
        return list(values)
    if not any(_is_uint64(value) for value in values):
        return [_as(value, np.int64) for value in values]
    negative = any(not isinstance(value, np.ndarray) and value < 0 for value in values)
    mixed = any(isinstance(value, np.ndarray) and value.dtype.kind == "i" for value in values)
    wide: type[np.generic] = np.float64 if signed or negative or mixed else np.uint64
    return [_as(value, wide) for value in values]


def floating(values: Sequence[Operand]) -> list[Operand]:
    """The operands with whole numbers as float64, float32 kept."""
    return [_as(value, np.float64) if is_whole(value) else value for value in values]


def add(a: Operand, b: Operand) -> Any:
    return np.add(*common((a, b)))


def subtract(a: Operand, b: Operand) -> Any:
    return np.subtract(*common((a, b), signed=True))


def multiply(a: Operand, b: Operand) -> Any:
    return np.multiply(*common((a, b)))


def divide(a: Operand, b: Operand) -> Any:
    return np.true_divide(*(floating((a, b)) if is_whole(a) and is_whole(b) else (a, b)))


def floor_divide(a: Operand, b: Operand) -> Any:
    return np.floor_divide(*_by(a, b))


def remainder(a: Operand, b: Operand) -> Any:
    return np.remainder(*_by(a, b))


def _by(a: Operand, b: Operand) -> list[Operand]:
    """Whole numbers are divided as such by a number that is not 0; by a branch as float64, because a division by 0 must not give 0."""
    if isinstance(b, np.ndarray) or b == 0:
        return floating((a, b)) if is_whole(a) and is_whole(b) else [a, b]
    return common((a, b))


def power(a: Operand, b: Operand) -> Any:
    if not (is_whole(a) and is_whole(b)):
        return np.power(a, b)
    if isinstance(a, np.ndarray) and not isinstance(b, np.ndarray) and b >= 0:
        bits = 1 if a.dtype.kind == "b" else a.dtype.itemsize * 8 - (a.dtype.kind == "i")
        if bits * b <= 63:
            return np.power(_as(a, np.int64), int(b))
    return np.power(*floating((a, b)))


def negative(a: Operand) -> Any:
    return np.negative(*common((a,), signed=True))


def positive(a: Operand) -> Any:
    return common((a,))[0]


def absolute(a: Operand) -> Any:
    return np.absolute(*common((a,)))


def bits(operation: Callable[[Any, Any], Any], a: Operand, b: Operand) -> Any:
    """&, |, << and >> of whole numbers (the caller has checked that they are)."""
    if is_bool(a) and is_bool(b) and operation not in (np.left_shift, np.right_shift):
        return operation(a, b)
    unsigned = [value for value in (a, b) if _is_uint64(value)]
    if unsigned and all(isinstance(value, np.ndarray) or value >= 0 for value in (a, b)):
        return operation(_as(a, np.uint64), _as(b, np.uint64))
    return operation(_as(a, np.int64), _as(b, np.int64))


def invert(a: Operand) -> Any:
    """~: not for booleans, every bit for integers."""
    return np.invert(a if is_bool(a) or _is_uint64(a) else _as(a, np.int64))


def not_equal(a: Operand, b: Operand) -> Any:
    """a != b, false where a or b is NaN."""
    if is_whole(a) and is_whole(b):
        return np.not_equal(a, b)
    return np.less(a, b) | np.greater(a, b)


def truth(a: Operand) -> Any:
    """Whether a value counts as true: not 0 and not NaN."""
    return a if is_bool(a) else not_equal(a, 0)


def untruth(a: Operand) -> Any:
    """Whether a value counts as false: 0 (NaN is neither)."""
    return np.logical_not(a) if is_bool(a) else np.equal(a, 0)


def where(condition: Operand, a: Operand, b: Operand) -> Any:
    return np.where(condition, *common((a, b)))


def clip(a: Operand, low: Operand, high: Operand) -> Any:
    return np.minimum(*common((np.maximum(*common((a, low))), high)))


def _special(name: str) -> Callable[..., Any]:
    def function(a: Operand) -> Any:
        from scipy import special

        return getattr(special, name)(*floating((a,)))

    return function


def _factorial(a: Operand) -> Any:
    from scipy import special

    return np.rint(special.gamma(np.rint(*floating((a,))) + 1))


def _float(ufunc: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values: ufunc(*floating(values))


def _whole(ufunc: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values: ufunc(*common(values))


_FLOAT_1 = (
    "arccos arccosh arcsin arcsinh arctan arctanh cbrt ceil cos cosh deg2rad exp exp2 expm1 fabs floor log log10 log1p log2 rad2deg rint round"
    " sin sinh sqrt tan tanh trunc"
)
_ALIASES = {"acos": "arccos", "acosh": "arccosh", "asin": "arcsin", "asinh": "arcsinh", "atan": "arctan", "atanh": "arctanh", "atan2": "arctan2"}

# name -> (number of arguments, function, whether the result is a condition); the functions of uproot's expression language and a few more
FUNCTIONS: dict[str, tuple[int, Callable[..., Any], bool]] = {
    **{name: (1, _float(getattr(np, name)), False) for name in _FLOAT_1.split()},
    **{name: (2, _float(getattr(np, name)), False) for name in ("arctan2", "copysign", "hypot", "nextafter")},
    **{name: (2, _whole(getattr(np, name)), False) for name in ("fmax", "fmin", "maximum", "minimum")},
    **{name: (1, _float(getattr(np, name)), True) for name in ("isfinite", "isinf", "isnan", "signbit")},
    **dict.fromkeys(("abs", "absolute"), (1, absolute, False)),
    **dict.fromkeys(("conj", "conjugate", "real"), (1, positive, False)),
    **dict.fromkeys(("pow", "power"), (2, power, False)),
    **dict.fromkeys(("neg", "negative"), (1, negative, False)),
    "imag": (1, lambda a: np.zeros_like(*common((a,))), False),
    "sign": (1, _whole(np.sign), False),
    "square": (1, lambda a: power(a, 2), False),
    "clip": (3, clip, False),
    "where": (3, where, False),
    "erf": (1, _special("erf"), False),
    "erfc": (1, _special("erfc"), False),
    "gamma": (1, _special("gamma"), False),
    "tgamma": (1, _special("gamma"), False),
    "lgamma": (1, _special("gammaln"), False),
    "factorial": (1, _factorial, False),
}
FUNCTIONS.update({short: FUNCTIONS[name] for short, name in _ALIASES.items()})
