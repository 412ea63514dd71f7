"""The compiler behind `mlaas.data.expressions`: Python's syntax tree, known nodes only, to closures over a batch."""

from __future__ import annotations

import ast
import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np

from mlaas.data import operations as op
from mlaas.data.columns import Columns
from mlaas.data.evaluation import REDUCTIONS, Batch, Value, element
from mlaas.data.files import Kind
from mlaas.errors import ExpressionError, nearest

DEEPEST = 100
Run = Callable[[Batch], Value]
LOGIC = {"logical_and": 2, "logical_or": 2, "logical_not": 1}
KNOWN = frozenset({*op.FUNCTIONS, *REDUCTIONS, *LOGIC})

_ARITHMETIC: dict[type[ast.operator], tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    ast.Add: (op.add, operator.add),
    ast.Sub: (op.subtract, operator.sub),
    ast.Mult: (op.multiply, operator.mul),
    ast.Div: (op.divide, operator.truediv),
    ast.FloorDiv: (op.floor_divide, operator.floordiv),
    ast.Mod: (op.remainder, operator.mod),
    ast.Pow: (op.power, lambda a, b: _constant_power(a, b)),
}
_BITS: dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.BitAnd: ("&", np.bitwise_and),
    ast.BitOr: ("|", np.bitwise_or),
    ast.LShift: ("<<", np.left_shift),
    ast.RShift: (">>", np.right_shift),
}
# comparison -> (itself, its opposite): both false when a side is NaN
_COMPARE: dict[type[ast.cmpop], tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    ast.Lt: (np.less, np.greater_equal),
    ast.LtE: (np.less_equal, np.greater),
    ast.Gt: (np.greater, np.less_equal),
    ast.GtE: (np.greater_equal, np.less),
    ast.Eq: (np.equal, op.not_equal),
    ast.NotEq: (op.not_equal, np.equal),
}
_REFUSED: dict[type[ast.AST], str] = {
    ast.IfExp: "write where(condition, a, b) instead of 'if' and 'else'",
    ast.Lambda: "functions cannot be defined",
    ast.NamedExpr: "names cannot be assigned",
    ast.JoinedStr: "texts are not allowed",
    ast.Tuple: "lists are not allowed; a comma may only stand between the arguments of a function",
    ast.List: "lists are not allowed",
    ast.Starred: "'*' cannot spread arguments",
}


@dataclass(frozen=True, slots=True)
class Node:
    """A compiled part. condition: whether it is true or false per event or element; `run_not` then gives the opposite."""

    run: Run
    kind: Literal["constant", "flat", "jagged", "unknown"]
    condition: Literal["yes", "maybe", "no"] = "no"
    run_not: Run | None = None


def quote(text: str) -> str:
    """The expression for a message, shortened when long."""
    return repr(text if len(text) <= 120 else text[:117] + "...")


class Compiler:
    """Compiles one expression. names and constants collect what it uses."""

    def __init__(self, text: str, source: str, quoted: Mapping[str, str], kinds: Mapping[str, Kind] | None) -> None:
        self.text = text
        self.names: set[str] = set()
        self.constants: set[str] = set()
        self._source = source.encode()
        self._quoted = quoted
        self._kinds = kinds
        self._depth = 0

    def value(self, node: ast.expr) -> Node:
        """Compile one node of the tree. Raises ExpressionError for all that is not allowed."""
        self._depth += 1
        if self._depth > DEEPEST:
            self._refuse(f"is nested more than {DEEPEST} levels deep")
        compiled = self._fold(node, self._node(node))
        self._depth -= 1
        return compiled

    def _node(self, node: ast.expr) -> Node:
        match node:
            case ast.Constant(value=value):
                return self._number(value)
            case ast.Name(id=name):
                return self._name(name)
            case ast.Attribute():
                return self._dotted(node)
            case ast.UnaryOp(op=operation, operand=operand):
                return self._unary(operation, self.value(operand))
            case ast.BinOp():
                return self._binary(node)
            case ast.BoolOp(op=operation, values=parts):
                return _logic(isinstance(operation, ast.And), [self.value(part) for part in parts])
            case ast.Compare():
                return self._compare(node)
            case ast.Call():
                return self._call(node)
            case ast.Subscript(value=base, slice=index):
                return self._element(self.value(base), index)
        self._refuse(_REFUSED.get(type(node), f"{type(node).__name__} is not part of the expression language"))

    def _refuse(self, why: str) -> NoReturn:
        raise ExpressionError(f"expression {quote(self.text)}: {why}")

    def _number(self, value: Any) -> Node:
        if isinstance(value, str | bytes):
            self._refuse("texts are not allowed; a branch is named without quotes, or in backquotes when its name is not an identifier")
        if not isinstance(value, bool | int | float):
            self._refuse(f"{value!r} is not a number of the expression language")
        number = self._representable(value)
        if math.isinf(number):
            self._refuse("a number is too large")
        return Node(lambda _: number, "constant")

    def _representable(self, value: Any) -> Any:
        if isinstance(value, float | bool | complex):
            return value
        try:
            return value if -(2**63) <= value < 2**63 else float(value)
        except OverflowError:
            self._refuse("a number is too large")

    def _name(self, name: str) -> Node:
        branch = self._quoted.get(name)
        if branch is None and name in op.CONSTANTS and (self._kinds is None or name not in self._kinds):
            self.constants.add(name)
            return Node(lambda _: op.CONSTANTS[name], "constant")
        return self._branch(name if branch is None else branch)

    def _branch(self, name: str) -> Node:
        if self._kinds is not None and name not in self._kinds:
            if name in KNOWN:
                self._refuse(f"{name} is a function: write {name}(...)")
            self._refuse(f"there is no branch {name!r}{nearest(name, self._kinds)}")
        self.names.add(name)
        kind = "unknown" if self._kinds is None else self._kinds[name]
        return Node(lambda batch: batch.load(name), kind, "maybe", lambda batch: batch.map(op.untruth, batch.load(name)))

    def _dotted(self, node: ast.Attribute) -> Node:
        parts: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name) or inner.id in self._quoted or any(part.startswith("__") for part in parts):
            self._refuse("a dot may only be part of a branch's name; attributes are not allowed")
        return self._branch(".".join([inner.id, *reversed(parts)]))

    def _unary(self, operation: ast.unaryop, operand: Node) -> Node:
        run = operand.run
        if isinstance(operation, ast.Not):
            return Node(_untrue(operand), operand.kind, "yes", _true(operand))
        if isinstance(operation, ast.Invert):
            if operand.condition == "yes":
                return Node(_untrue(operand), operand.kind, "yes", _true(operand))
            bits = functools.partial(self._whole_only, "~", lambda a: op.invert(a))
            return Node(lambda batch: batch.map(bits, run(batch)), operand.kind, operand.condition)
        function = op.negative if isinstance(operation, ast.USub) else op.positive
        return Node(lambda batch: batch.map(function, run(batch)), operand.kind)

    def _binary(self, node: ast.BinOp) -> Node:
        a, b = self.value(node.left), self.value(node.right)
        if type(node.op) in _ARITHMETIC:
            on_branches, on_numbers = _ARITHMETIC[type(node.op)]
            return _apply(on_numbers if a.kind == b.kind == "constant" else on_branches, [a, b])
        if isinstance(node.op, ast.BitXor | ast.MatMult):
            self._refuse("'^' is not allowed: write ** for a power" if isinstance(node.op, ast.BitXor) else "'@' is not allowed")
        symbol, bits = _BITS[type(node.op)]
        if symbol in "&|" and "yes" in (a.condition, b.condition):
            if any(part.kind == "constant" and part.condition != "yes" for part in (a, b)):
                self._refuse(f"{symbol!r} joins conditions: put each comparison in parentheses, as in (pt>30) & (abs(eta)<2.4)")
            return _logic(symbol == "&", [a, b])
        applied = _apply(functools.partial(self._whole_only, symbol, functools.partial(op.bits, bits)), [a, b])
        maybe = symbol in "&|" and a.condition == b.condition == "maybe"
        return Node(applied.run, applied.kind, "maybe" if maybe else "no")

    def _whole_only(self, symbol: str, function: Callable[..., Any], *values: Value) -> Any:
        """Called when evaluated: bits exist in booleans and integers only."""
        if not all(op.is_whole(value) for value in values):
            self._refuse(f"{symbol!r} takes conditions or whole numbers: put each comparison in parentheses, as in (pt>30) & (abs(eta)<2.4)")
        if symbol in ("<<", ">>") and not (isinstance(values[1], int) and 0 <= values[1] < 64):
            self._refuse(f"{symbol!r} shifts by a number from 0 to 63")
        return function(*values)

    def _compare(self, node: ast.Compare) -> Node:
        terms = [node.left, *node.comparators]
        for term in terms:
            if isinstance(term, ast.BinOp) and isinstance(term.op, ast.BitAnd | ast.BitOr) and self._is_bare(node, term):
                self._refuse("'&' and '|' beside a comparison need parentheses, as in (pt>30) & (abs(eta)<2.4) or (flags & 2) != 0")
        links: list[tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = []
        for comparison in node.ops:
            if type(comparison) not in _COMPARE:
                self._refuse("'in' and 'is' are not allowed; compare with == and join with 'or'")
            links.append(_COMPARE[type(comparison)])
        parts = [self.value(term) for term in terms]
        runs = [part.run for part in parts]
        kind = _kind(parts)
        straight = _chain(runs, [link for link, _ in links], np.logical_and)
        return Node(straight, kind, "yes", _chain(runs, [link for _, link in links], np.logical_or))

    def _is_bare(self, whole: ast.Compare, term: ast.expr) -> bool:
        """Whether a term of a comparison has no parentheses of its own."""
        if term is whole.left:
            return term.col_offset == whole.col_offset
        return not self._source[: term.col_offset].rstrip().endswith(b"(")

    def _call(self, node: ast.Call) -> Node:
        if not isinstance(node.func, ast.Name) or node.func.id in self._quoted:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            self._refuse(f"write {name}(...) without anything before it" if name in KNOWN else "only functions can be called, by their name")
        name = node.func.id
        if node.keywords:
            self._refuse(f"{name}(...) takes no arguments by name")
        if name == "get" and len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
            return self._branch(node.args[0].value)
        if name not in KNOWN:
            branch = self._kinds is not None and name in self._kinds
            self._refuse(f"{name!r} is a branch, not a function" if branch else f"there is no function {name!r}{nearest(name, KNOWN)}")
        arguments = [self.value(argument) for argument in node.args]
        if name in ("min", "max") and len(arguments) == 2:
            name += "imum"
        if name in REDUCTIONS:
            return self._reduction(name, arguments)
        return self._function(name, arguments)

    def _function(self, name: str, arguments: list[Node]) -> Node:
        wanted = LOGIC[name] if name in LOGIC else op.FUNCTIONS[name][0]
        if len(arguments) != wanted:
            self._refuse(f"{name} takes {wanted} argument{'s' * (wanted != 1)}, not {len(arguments)}")
        if name == "logical_not":
            return self._unary(ast.Not(), arguments[0])
        if name in LOGIC:
            return _logic(name == "logical_and", arguments)
        if name == "where":
            arguments[0] = Node(_true(arguments[0]), arguments[0].kind)
        _, function, condition = op.FUNCTIONS[name]
        applied = _apply(function, arguments)
        if not condition:
            return applied
        return Node(applied.run, applied.kind, "yes", lambda batch: batch.map(np.logical_not, applied.run(batch)))

    def _reduction(self, name: str, arguments: list[Node]) -> Node:
        if len(arguments) != 1:
            self._refuse(f"{name} takes 1 argument, not {len(arguments)}")
        argument = arguments[0]
        if argument.kind in ("flat", "constant"):
            self._refuse(f"{name}(...) needs a jagged branch, and this one has one value per event")
        if name in ("count", "len") and argument.condition == "yes":
            self._refuse(f"{name} counts all elements; write sum(...) to count those that satisfy a condition")
        reduce = REDUCTIONS[name]
        logical = name in ("any", "all")
        inner = _true(argument) if logical else argument.run

        def run(batch: Batch) -> Value:
            return reduce(batch, batch.lists(inner(batch), f"{name}(...)"))

        return Node(run, "flat", "yes", lambda batch: np.logical_not(run(batch))) if logical else Node(run, "flat")

    def _element(self, base: Node, index: ast.expr) -> Node:
        if isinstance(index, ast.Slice):
            self._refuse("slices are not allowed; x[0] is the first element of each list")
        number = self.value(index)
        if base.kind in ("flat", "constant"):
            self._refuse("x[i] needs a jagged branch, and this one has one value per event")
        if number.kind == "jagged":
            self._refuse("the i of x[i] is a whole number or one per event, as in x[0] or x[argmax(y)]")

        def run(batch: Batch) -> Value:
            where = number.run(batch)
            if not op.is_whole(where):
                self._refuse("the i of x[i] is a whole number")
            return element(batch, batch.lists(base.run(batch), "x[i]"), where)

        return Node(run, "flat")

    def _fold(self, node: ast.expr, compiled: Node) -> Node:
        """Compute a part without branches once, here."""
        if compiled.kind != "constant" or isinstance(node, ast.Constant | ast.Name):
            return compiled
        try:
            with np.errstate(all="ignore"):
                value = compiled.run(_NOTHING)
        except (OverflowError, ZeroDivisionError):
            value = math.nan
        number = self._representable(value.item() if isinstance(value, np.generic | np.ndarray) else value)
        if isinstance(number, complex) or (not math.isfinite(number) and not self.constants & {"inf", "nan"}):
            self._refuse("a part without branches is not a finite number")
        return Node(lambda _: number, "constant", compiled.condition, lambda _: not number)


_NOTHING = Batch(Columns(0, {}), "")


def _constant_power(a: float, b: float) -> Any:
    """Never a Python integer of more than 64 bits, however the text tries."""
    if isinstance(a, int) and isinstance(b, int) and b >= 0 and b * a.bit_length() <= 64:
        return a**b
    return float(a) ** float(b)


def _kind(parts: Sequence[Node]) -> Literal["constant", "flat", "jagged", "unknown"]:
    kinds = {part.kind for part in parts}
    return "jagged" if "jagged" in kinds else "unknown" if "unknown" in kinds else "flat" if "flat" in kinds else "constant"


def _apply(function: Callable[..., Any], parts: Sequence[Node]) -> Node:
    runs = [part.run for part in parts]
    return Node(lambda batch: batch.map(function, *[run(batch) for run in runs]), _kind(parts))


def _true(part: Node) -> Run:
    run = part.run
    return run if part.condition == "yes" else lambda batch: batch.map(op.truth, run(batch))


def _untrue(part: Node) -> Run:
    run = part.run
    return part.run_not or (lambda batch: batch.map(op.untruth, run(batch)))


def _logic(conjunction: bool, parts: Sequence[Node]) -> Node:
    """All of the parts, or any of them; the opposite by De Morgan's rule, so that NaN satisfies neither."""
    straight, opposite = (np.logical_and, np.logical_or) if conjunction else (np.logical_or, np.logical_and)
    return Node(_join([_true(part) for part in parts], straight), _kind(parts), "yes", _join([_untrue(part) for part in parts], opposite))


def _join(runs: Sequence[Run], function: Callable[[Any, Any], Any]) -> Run:
    return lambda batch: functools.reduce(lambda a, b: batch.map(function, a, b), (run(batch) for run in runs))


def _chain(runs: Sequence[Run], links: Sequence[Callable[[Any, Any], Any]], join: Callable[[Any, Any], Any]) -> Run:
    def run(batch: Batch) -> Value:
        values = [term(batch) for term in runs]
        results = [batch.map(link, a, b) for link, a, b in zip(links, values, values[1:], strict=False)]
        return functools.reduce(lambda a, b: batch.map(join, a, b), results)

    return run
