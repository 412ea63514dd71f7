"""The expression language: against a plain Python reference, type by type, and everything it must refuse."""

import math
import pickle

import awkward as ak
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uproot.language.python import PythonLanguage

from mlaas.data.columns import Columns, Jagged
from mlaas.data.expressions import LONGEST, compile_expression
from mlaas.data.operations import FUNCTIONS
from mlaas.data.syntax import KNOWN
from mlaas.errors import DataError, ExpressionError

OFFSETS = np.array([0, 2, 2, 5])
KINDS = dict.fromkeys(("x", "y", "jet.pt", "other"), "jagged") | dict.fromkeys(("m", "n", "b", "a/b"), "flat")
LISTS = {"x": np.array([1.0, 2, 3, np.nan, -1]), "y": np.array([1, 2, 3, 4, 5], np.int32), "jet.pt": np.array([1, 2, 3, 4, 5], np.float32)}
FLAT = {"m": np.array([1, 2, 3], np.float32), "n": np.array([250, 3, 0], np.uint8), "b": np.array([True, False, True]), "a/b": np.array([7, 8, 9])}
COLUMNS = Columns(
    3, {**{name: Jagged(values, OFFSETS) for name, values in LISTS.items()}, **FLAT, "other": Jagged(np.arange(5.0), np.array([0, 1, 2, 5]))}
)


def value(text, columns=COLUMNS):
    return compile_expression(text, {name: "jagged" if isinstance(column, Jagged) else "flat" for name, column in columns.data.items()}).evaluate(
        columns
    )


def plain(column):
    return column.lists() if isinstance(column, Jagged) else column.tolist()


def joined(lists):
    return [element for part in lists for element in part]


# --- against a reference: texts are drawn together with what they mean, one number at a time ---


def _number(text, function):
    return st.just((text, function))


def _three_valued(combine):
    """Kleene's logic: None is unknown."""
    return lambda a, b: lambda env: combine(a(env), b(env))


def _and(a, b):
    return False if a is False or b is False else None if a is None or b is None else True


def _or(a, b):
    return True if a is True or b is True else None if a is None or b is None else False


def _compared(compare):
    def meaning(a, b):
        def run(env):
            left, right = a(env), b(env)
            return None if math.isnan(left) or math.isnan(right) else bool(compare(left, right))

        return run

    return meaning


_ARITHMETIC = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
_COMPARISONS = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal, "==": np.equal, "!=": np.not_equal}
_leaf = st.one_of(
    *[_number(name, lambda env, name=name: env[name]) for name in ("x", "y", "m")],
    st.integers(-9, 9).map(lambda n: (f"({n})", lambda env: np.float64(n))),
    st.sampled_from([0.5, 2.5e-1, 3e0]).map(lambda v: (repr(v), lambda env: np.float64(v))),
)


def _combined(inner):
    return st.one_of(
        st.tuples(inner, st.sampled_from(sorted(_ARITHMETIC)), inner).map(
            lambda t: (f"({t[0][0]} {t[1]} {t[2][0]})", lambda env: _ARITHMETIC[t[1]](t[0][1](env), t[2][1](env)))
        ),
        inner.map(lambda t: (f"-{t[0]}", lambda env: -t[1](env))),
        inner.map(lambda t: (f"abs({t[0]})", lambda env: abs(t[1](env)))),
    )


_numbers = st.recursive(_leaf, _combined, max_leaves=5)
_links = st.tuples(_numbers, st.sampled_from(sorted(_COMPARISONS)), _numbers, st.sampled_from(sorted(_COMPARISONS)), _numbers)


def _chain(t):
    first, second = _compared(_COMPARISONS[t[1]])(t[0][1], t[2][1]), _compared(_COMPARISONS[t[3]])(t[2][1], t[4][1])
    return f"({t[0][0]} {t[1]} {t[2][0]} {t[3]} {t[4][0]})", _three_valued(_and)(first, second)


_atom = st.one_of(
    st.tuples(_numbers, st.sampled_from(sorted(_COMPARISONS)), _numbers).map(
        lambda t: (f"({t[0][0]} {t[1]} {t[2][0]})", _compared(_COMPARISONS[t[1]])(t[0][1], t[2][1]))
    ),
    _links.map(_chain),
    _numbers.map(lambda t: (f"isnan({t[0]})", lambda env: bool(math.isnan(t[1](env))))),
)


def _pair(inner, word, symbol, combine):
    drawn = st.tuples(inner, st.sampled_from([word, symbol]), inner)
    return drawn.map(lambda t: (f"({t[0][0]} {t[1]} {t[2][0]})", _three_valued(combine)(t[0][1], t[2][1])))


def _opposite(t):
    sign, (text, meaning) = t
    return f"({sign}{text})", lambda env: None if meaning(env) is None else not meaning(env)


def _joined(inner):
    return st.one_of(_pair(inner, "and", "&", _and), _pair(inner, "or", "|", _or), st.tuples(st.sampled_from(["not ", "~"]), inner).map(_opposite))


_conditions = st.recursive(_atom, _joined, max_leaves=5)
_value = st.one_of(st.floats(-10, 10), st.integers(-3, 3).map(float), st.just(math.nan))


@st.composite
def _events(draw):
    counts = draw(st.lists(st.integers(0, 3), min_size=1, max_size=5))
    total, offsets = sum(counts), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    content = {name: Jagged(np.array(draw(st.lists(_value, min_size=total, max_size=total)), np.float64), offsets) for name in ("x", "y")}
    flat_values = np.array(draw(st.lists(_value, min_size=len(counts), max_size=len(counts))), np.float64)
    return Columns(len(counts), {**content, "m": flat_values})


def _reference(columns, meaning, text):
    """One number after another; the shape is that of the branches the text names."""
    x, y, m = columns["x"].lists(), columns["y"].lists(), columns["m"]
    with np.errstate(all="ignore"):
        if "x" in text or "y" in text:
            return [[meaning({"x": np.float64(a), "y": np.float64(b), "m": m[i]}) for a, b in zip(x[i], y[i], strict=True)] for i in range(columns.n)]
        return [meaning({"m": m[i]}) for i in range(columns.n)]


@settings(max_examples=150, deadline=None)
@given(_events(), _numbers)
def test_numbers_equal_the_reference(columns, drawn):
    text, meaning = drawn
    result, expected = plain(value(text, columns)), _reference(columns, meaning, text)
    if isinstance(value(text, columns), Jagged):
        assert [len(part) for part in result] == [len(part) for part in expected]
        result, expected = joined(result), joined(expected)
    np.testing.assert_array_equal(np.asarray(result, float), np.asarray(expected, float))


@settings(max_examples=250, deadline=None)
@given(_events(), _conditions)
def test_conditions_equal_three_valued_logic(columns, drawn):
    """NaN makes a comparison unknown, and what stays unknown is not satisfied."""
    text, meaning = drawn
    result = value(text, columns)
    assert (result.content if isinstance(result, Jagged) else result).dtype == np.bool_
    known = [[part is True for part in event] if isinstance(event, list) else event is True for event in _reference(columns, meaning, text)]
    assert plain(result) == known


@settings(max_examples=60, deadline=None)
@given(_events())
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "u2", "?"])
def test_reductions_equal_awkward(dtype, columns):
    whole = np.dtype(dtype).kind != "f"
    content = np.abs(np.nan_to_num(columns["x"].content)) if whole else columns["x"].content
    column = Jagged(content.astype(dtype), columns["x"].offsets)
    batch = Columns(columns.n, {"x": column})
    events = ak.Array(column.lists()) if len(column.content) else None

    def same(text, expected):
        np.testing.assert_allclose(np.asarray(value(text, batch), float), np.asarray(expected, float), rtol=1e-6)

    lists = [np.array(part, dtype) for part in column.lists()]
    if events is not None:
        same("count(x)", ak.num(events))
        same("sum(x)", [np.sum(part, dtype=np.float64) for part in lists])
        same("any(x > 1)", ak.any(events > 1, axis=1))
        same("all(x > 1)", ak.all(events > 1, axis=1))
        same("first(x)", ak.fill_none(ak.firsts(events), np.nan))
    same("len(x)", [len(part) for part in lists])
    same("max(x)", [np.max(part) if len(part) else np.nan for part in lists])
    same("min(x)", [np.min(part) if len(part) else np.nan for part in lists])
    same("argmax(x)", [np.argmax(part) if len(part) else -1 for part in lists])
    same("argmin(x)", [np.argmin(part) if len(part) else -1 for part in lists])
    same("x[-1]", [part[-1] if len(part) else np.nan for part in lists])
    same("x[1]", [part[1] if len(part) > 1 else np.nan for part in lists])
    same("x[argmax(x)]", [part[np.argmax(part)] if len(part) else np.nan for part in lists])
    same("mean(x)", [np.mean(part, dtype=np.float64) if len(part) else np.nan for part in lists])


# --- functions ---


def test_every_function_of_uproot_is_known():
    assert set(PythonLanguage.default_functions) <= KNOWN


@pytest.mark.parametrize("name", sorted(set(PythonLanguage.default_functions) & set(FUNCTIONS) - {"where"}))
def test_functions_equal_uproot(name):
    count = FUNCTIONS[name][0]
    columns = Columns(4, {"a": np.array([0.1, 0.5, 0.9, 1.7]), "b": np.array([1.0, -2.0, 3.0, 0.2])})
    with np.errstate(all="ignore"):
        expected = PythonLanguage.default_functions[name](*[columns["a"], columns["b"]][:count])
    result = value(f"{name}({', '.join('ab'[:count])})", columns)
    # uproot approximates erf to 1.5e-7 and gamma to 1e-10
    np.testing.assert_allclose(result, expected, rtol=2e-6, atol=3e-7)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("where(x > 1, y, -1)", [[-1, 2], [], [3, -1, -1]]),
        ("where(m > 1, x, y)", [[1, 2], [], [3, math.nan, -1]]),
        ("min(m, 2)", [1, 2, 2]),
        ("max(x, 0)", [[1, 2], [], [3, math.nan, 0]]),
        ("clip(y, 2, 4)", [[2, 2], [], [3, 4, 4]]),
        ("pow(m, 2) + square(m) + power(m, 2)", [3, 12, 27]),
        ("sum(x > 1)", [1, 0, 1]),
        ("not any(x > 1)", [False, True, False]),
        ("logical_and(m > 1, b)", [False, False, True]),
        ("logical_not(b)", [False, True, False]),
        ("~b", [False, True, False]),
        ("b & (m < 3)", [True, False, False]),
        ("(n & 2) != 0", [True, True, False]),
        ("(n >> 1) + (n << 1)", [625, 7, 0]),
        ("~n", [-251, -4, -1]),
        ("n | 256", [506, 259, 256]),
        ("x[argmax(y)]", [2, math.nan, -1]),
        ("y[0] + y[-1]", [3, math.nan, 8]),
        ("y[n]", [math.nan, math.nan, 3]),
        ("sign(-m)", [-1, -1, -1]),
        ("imag(m) + real(m)", [1, 2, 3]),
        ("factorial(m)", [1, 2, 6]),
        ("1e2 * m + 1.5E-1 * 0", [100, 200, 300]),
        ("2 * pi * 0 + e * 0 + m", [1, 2, 3]),
        ("where(m > 2, nan, m)", [1, 2, math.nan]),
        ("m < inf", [True, True, True]),
        ("1 < 2", [True, True, True]),
        ("7 // 2 + 7 % 4 - 2**3", [-2, -2, -2]),
        ("jet.pt * 2", [[2, 4], [], [6, 8, 10]]),
        ("`jet.pt` * 2", [[2, 4], [], [6, 8, 10]]),
        ("`a/b` + 1", [8, 9, 10]),
        ("get('a/b') + 1", [8, 9, 10]),
        ("a/b", [7, 8, 9]),
        (" m\n + m ", [2, 4, 6]),
        ("3 > y >= m", [[True, True], [], [False, False, False]]),
        ("isfinite(x) and not signbit(x)", [[True, True], [], [True, False, False]]),
    ],
)
def test_values(text, expected):
    result = value(text)
    if isinstance(result, Jagged):
        assert result.offsets is OFFSETS
        np.testing.assert_array_equal(result.content, np.array(joined(expected), float))
    else:
        np.testing.assert_array_equal(result, np.array(expected, float))


# --- types ---


@pytest.mark.parametrize(
    ("text", "values", "dtype", "expected", "result"),
    [
        ("v - 5", [3, 250], "u1", [-2, 245], "i8"),
        ("5 - v", [3, 250], "u4", [2, -245], "i8"),
        ("-v", [3, 250], "u2", [-3, -250], "i8"),
        ("v - 5", [3, 2**60], "u8", [-2, 2.0**60], "f8"),
        ("v + 5", [3, 2**63], "u8", [8, 2**63 + 5], "u8"),
        ("v % 2", [3, 2**63 + 1], "u8", [1, 1], "u8"),
        ("v * 100", [100, -100], "i1", [10000, -10000], "i8"),
        ("v**2", [300, -300], "i2", [90000, 90000], "i8"),
        ("v**2", [2**31 - 1], "i4", [(2**31 - 1) ** 2], "i8"),
        ("v**3", [2**30], "i4", [2.0**90], "f8"),
        ("v**-1", [2, 4], "i4", [0.5, 0.25], "f8"),
        ("v**n", [2, 4], "i4", [0.5, 0.25], "f8"),
        ("2**v", [-1, 100], "i4", [0.5, 2.0**100], "f8"),
        ("v / 2", [1, 3], "i4", [0.5, 1.5], "f8"),
        ("v / 2", [1, 3], "i1", [0.5, 1.5], "f8"),
        ("v // 2", [1, -3], "i4", [0, -2], "i8"),
        ("v // 0", [1, -1], "i4", [np.inf, -np.inf], "f8"),
        ("v % v", [0, 2], "i4", [np.nan, 0], "f8"),
        ("v + v", [True, False], "?", [2, 0], "i8"),
        ("v - v", [True, False], "?", [0, 0], "i8"),
        ("-v", [True, False], "?", [-1, 0], "i8"),
        ("v * 2.0", [True, False], "?", [2, 0], "f8"),
        ("v == 1", [True, False], "?", [True, False], "?"),
        ("log(v)", [1, 0], "i1", [0, -np.inf], "f8"),
        ("sqrt(v)", [4, 9], "?", [1, 1], "f8"),
        ("abs(v)", [-128, 5], "i1", [128, 5], "i8"),
        ("floor(v)", [3], "i4", [3], "f8"),
        ("log(v)", [-1.0, 1.0], "f4", [np.nan, 0], "f4"),
        ("2 * v + 0.5", [1, 2], "f4", [2.5, 4.5], "f4"),
        ("v**2 / 3", [3], "f4", [3], "f4"),
        ("hypot(v, 1.0) > 1", [3], "f4", [True], "?"),
        ("maximum(v, 1.5)", [1, 2], "f4", [1.5, 2], "f4"),
        ("where(v > 1, v, 0.25)", [1, 2], "f4", [0.25, 2], "f4"),
        ("where(v > 1, v, -1)", [1, 2], "u1", [-1, 2], "i8"),
        ("minimum(v, -1)", [1, 2], "u8", [-1, -1], "f8"),
        ("v > -1", [0, 1], "u1", [True, True], "?"),
        ("v < 300", [0, 255], "u1", [True, True], "?"),
        ("v & 2**63", [2**63 + 1], "u8", [2**63], None),
        ("erf(v)", [0], "f4", [0], "f4"),
        ("1 / v", [0.0], "f4", [np.inf], "f4"),
    ],
)
def test_types(text, values, dtype, expected, result):
    columns = Columns(len(values), {"v": np.array(values, dtype), "n": np.full(len(values), -1)})
    if result is None:
        with pytest.raises(ExpressionError, match="whole numbers"):
            value(text, columns)
        return
    found = value(text, columns)
    assert found.dtype == np.dtype(result)
    np.testing.assert_array_equal(found, np.array(expected, result))


def test_sum_of_float32_is_added_up_in_float64():
    many = Jagged(np.full(2**15, 0.1, np.float32), np.array([0, 2**15]))
    total = value("sum(v)", Columns(1, {"v": many}))
    assert total.dtype == np.float32
    assert total[0] == np.float32(np.float64(np.float32(0.1)) * 2**15)


def test_half_and_long_floats_are_reduced():
    for dtype in (np.float16, np.longdouble):
        columns = Columns(2, {"v": Jagged(np.array([1, 3, 2], dtype), np.array([0, 3, 3]))})
        assert value("sum(v)", columns)[0] == 6
        assert value("max(v)", columns)[0] == 3
        assert math.isnan(value("max(v)", columns)[1])


# --- shapes ---


def test_slices_of_events_read_only_their_content():
    part = COLUMNS.slice(2, 3)
    assert value("x * m", part).lists()[0][0] == 9
    assert value("sum(y)", part).tolist() == [12]
    assert len(value("y + 1", part).content) == 3
    assert value("y[0]", part).tolist() == [3]


def test_equal_lengths_of_different_offsets_combine():
    columns = Columns(2, {"a": Jagged(np.array([1.0, 2]), np.array([0, 1, 2])), "b": Jagged(np.array([0, 1.0, 2]), np.array([1, 2, 3]))})
    assert value("a + b", columns).lists() == [[2.0], [4.0]]


def test_different_lengths_are_refused_by_name():
    with pytest.raises(DataError, match=r"'x' and 'other' cannot be combined.*event 0 of the batch: 2 and 1"):
        value("x + other")


def test_no_events():
    empty = Columns(0, {"x": Jagged(np.array([], np.float32), np.array([0])), "m": np.array([], np.float32)})
    assert value("x * m", empty).lists() == []
    assert value("any(x > 1)", empty).tolist() == []
    assert value("3", empty).tolist() == []


def test_a_missing_branch_is_named():
    with pytest.raises(DataError, match="'q'"):
        compile_expression("q + 1").evaluate(COLUMNS)


def test_read_only_and_strided_columns():
    values = np.arange(10.0)[::2]
    values.flags.writeable = False
    columns = Columns(5, {"v": values, "x": Jagged(values, np.arange(6))})
    assert value("v + sum(x)", columns).tolist() == [0, 4, 8, 12, 16]


# --- what an expression says of itself ---


def test_names_kind_and_condition():
    expression = compile_expression("sum(jet.pt > 30) * met + pi")
    assert expression.names == {"jet.pt", "met"}
    assert expression.constants == {"pi"}
    assert expression.kind is None
    assert not expression.condition
    assert compile_expression("sum(jet.pt)").kind == "flat"
    assert compile_expression("x + m", KINDS).kind == "jagged"
    assert compile_expression("m", KINDS).condition
    assert compile_expression("2").kind == "flat"


def test_a_branch_hides_a_constant():
    columns = Columns(2, {"e": np.array([5, 6])})
    assert value("e + 1", columns).tolist() == [6, 7]
    assert compile_expression("`e` + 1").names == {"e"}
    assert compile_expression("e + 1").names == frozenset()


def test_pickle():
    again = pickle.loads(pickle.dumps(compile_expression("x + m", KINDS)))  # noqa: S301
    assert again.kind == "jagged"
    assert plain(again.evaluate(COLUMNS))[0] == [2, 3]


# --- refusals ---


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("log(", "'\\(' was never closed"),
        ("foo(x)", "no function 'foo'"),
        ("sqtr(x)", r"did you mean 'sqrt'\?"),
        ("jet.pd", r"no branch 'jet.pd' \(did you mean 'jet.pt'\?\)"),
        ("log", r"write log\(\.\.\.\)"),
        ("x(1)", "'x' is a branch, not a function"),
        ("x.real.imag", "no branch 'x.real.imag'"),
        ("x.__class__", "attributes are not allowed"),
        ("(x + 1).real", "attributes are not allowed"),
        ("().__class__", "attributes are not allowed"),
        ("x.sum()", r"write sum\(...\) without anything before it"),
        ("np.log(x)", r"write log\(...\) without"),
        ("__import__('os')", "no function '__import__'"),
        ("open('f')", "no function 'open'"),
        ("eval('1')", "no function 'eval'"),
        ("(lambda: 1)()", "only functions can be called"),
        ("lambda: 1", "functions cannot be defined"),
        ("x if b else y", r"write where\("),
        ("'a'", "texts are not allowed"),
        ("b'a'", "texts are not allowed"),
        ("f'{x}'", "texts are not allowed"),
        ("x and", "is not valid"),
        ("x && y", "write 'and'"),
        ("x || y", "write 'or'"),
        ("!b", "write 'not'"),
        ("x = 3", "write == to compare"),
        ("x =< 3", "write <= or >="),
        ("x <> 3", "write != instead"),
        ("x ^ 2", r"write \*\* for a power"),
        ("x @ y", "'@'"),
        ("x in y", "'in' and 'is'"),
        ("x is y", "'in' and 'is'"),
        ("[1, 2]", "lists are not allowed"),
        ("(x, y)", "lists are not allowed"),
        ("{x}", "Set is not part"),
        ("[a for a in x]", "ListComp is not part"),
        ("(x := 1)", "names cannot be assigned"),
        ("x; y", "is not valid"),
        ("import os", "is not valid"),
        ("maximum(*x)", "cannot spread"),
        ("log(x, base=2)", "takes no arguments by name"),
        ("log(**x)", "takes no arguments by name"),
        ("hypot(x)", "hypot takes 2 arguments, not 1"),
        ("log(x, y)", "log takes 1 argument, not 2"),
        ("sum()", "sum takes 1 argument, not 0"),
        ("sum(m)", "needs a jagged branch"),
        ("any(m > 1)", "needs a jagged branch"),
        ("count(x > 1)", r"write sum\(...\) to count"),
        ("m[0]", "needs a jagged branch"),
        ("x[1:2]", "slices are not allowed"),
        ("x[y]", "one per event"),
        ("x > 1 & y < 2", "need parentheses"),
        ("x == 1 | y == 2", "need parentheses"),
        ("n & 2 == 2", "need parentheses"),
        ("(x > 1) & 3", "each comparison in parentheses"),
        ("1j * x", "1j is not a number"),
        ("None", "None is not a number"),
        ("...", "Ellipsis is not a number"),
        ("`a", "backquote is not closed"),
        ("`` + 1", "no name between two backquotes"),
        ("`nosuch`", "no branch 'nosuch'"),
        ("x\0", "is not valid"),
        ("9**9**9**9", "not a finite number"),
        ("10**10**10 * x", "not a finite number"),
        ("1e308 * 10 * x", "not a finite number"),
        ("1 / 0", "not a finite number"),
        ("log(0) + x", "not a finite number"),
        ("(-8)**0.5", "not a finite number"),
        ("1e999", "too large"),
        ("1" + "0" * 400, "too large"),
        ("1 << 64", "shifts by a number from 0 to 63"),
        ("1 << 10**9", "shifts by a number from 0 to 63"),
        ("-" * 300 + "x", "nested more than 100 levels"),
        ("-" * 4000 + "x", "nested|valid"),
        ("+".join(["x"] * 200), "nested more than 100 levels"),
        ("x" * (LONGEST + 1), "4096 are allowed"),
    ],
)
def test_refused_with_one_sentence(text, sentence):
    with pytest.raises(ExpressionError, match=sentence) as caught:
        compile_expression(text, KINDS)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(("expression '", 'expression "', "an expression"))
    assert len(message) < 400


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("~x", "'~' takes"), ("x << 2", "'<<' takes"), ("x & m", "parentheses"), ("n << -1", "0 to 63"), ("x[m]", "whole")],
)
def test_refused_by_type_when_evaluated(text, sentence):
    with pytest.raises(ExpressionError, match=sentence):
        value(text)


def test_jaggedness_unknown_until_evaluated():
    with pytest.raises(ExpressionError, match=r"sum\(...\) needs a jagged branch"):
        compile_expression("sum(m)").evaluate(COLUMNS)


def test_not_a_text():
    with pytest.raises(ExpressionError, match="not int"):
        compile_expression(3)


_WORDS = "and or not in is if else lambda for sum any log abs where __class__ __import__ os eval import yield await None True f'' b'' x y m"
_SIGNS = "( ) [ ] { } + - * ** / // % & | ~ ^ << >> < <= == != , . : ; = := ` ' \" # @ \\ 0 1 1e9 9**9 0x1f 1j ... \n \t \x00 é ª"
_TOKENS = st.sampled_from([*_WORDS.split(" "), *_SIGNS.split(" ")])


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.lists(_TOKENS, max_size=12).map(" ".join), st.lists(_TOKENS, max_size=12).map("".join), st.text(max_size=30)))
def test_any_text_compiles_or_is_refused(text):
    """Nothing but the package's own errors comes out; what compiles reads known branches and gives one value per event or element."""
    for kinds in (None, KINDS):
        try:
            expression = compile_expression(text, kinds)
            result = expression.evaluate(COLUMNS) if kinds else None
        except (ExpressionError, DataError):
            continue
        if kinds:
            assert expression.names <= set(kinds)
            assert expression.kind == ("jagged" if isinstance(result, Jagged) else "flat")
            assert len(result) == COLUMNS.n
