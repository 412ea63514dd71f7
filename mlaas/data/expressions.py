"""The expression language of preproc and of event weights: compiled from text once, evaluated on columns, never with `eval`.

    log(partonE)        1 <= nJets**2 <= 16        (jet.pt > 30) & (abs(jet.eta) < 2.4)        sum(jet_pt[0] * `a/b`)

Numbers, branches, + - * / // % **, comparisons (chained too), and or not & | ~ << >>, the functions of uproot's expression language, and
reductions of jagged branches to one value per event: sum mean min max any all count len first argmin argmax, `x[i]` (NaN where an event has
no such element). A jagged branch beside a flat one repeats the flat value for each element; two jagged branches need equal lengths.
A comparison with NaN is never satisfied, negated or not (`x != 3` and `not x < 3` are both false for NaN); `isnan` asks for it.
Names that are not identifiers stand in backquotes; `jet.pt` needs none. A branch may hide a constant (pi, e, inf, nan), not a function.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlaas.data import syntax
from mlaas.data.columns import Column, Columns
from mlaas.data.evaluation import Batch
from mlaas.data.files import Kind
from mlaas.errors import DataError, ExpressionError

LONGEST = 4096
_HINTS = (
    (r"&&", "write 'and' instead of '&&'"),
    (r"\|\|", "write 'or' instead of '||'"),
    (r"!(?!=)", "write 'not' instead of '!'"),
    (r"=<|=>", "write <= or >="),
    (r"<>", "write != instead of <>"),
    (r"(?<![<>=!:])=(?!=)", "write == to compare"),
)


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression.

    text: as the user wrote it. names: the branches it reads. constants: the named constants it uses (pi, e, inf, nan).
    kind: of its result; None when the kinds of the branches were not given and it depends on them.
    condition: whether its result can be true or false (a comparison, and, or, not, any, ..., or a bare branch, which may be boolean).
    """

    text: str
    names: frozenset[str]
    constants: frozenset[str]
    kind: Kind | None
    condition: bool
    _run: Callable[[Batch], Any] = field(repr=False, compare=False)
    _kinds: Mapping[str, Kind] | None = field(repr=False, compare=False)

    def evaluate(self, columns: Columns) -> Column:
        """The value for each event, shape (n,), or for each element of each list; it shares the offsets of the branches it comes from.

        Raises DataError when a branch is missing or lists differ in length, ExpressionError when values have no such operation.
        """
        batch = Batch(columns, syntax.quote(self.text))
        try:
            with np.errstate(all="ignore"):
                return batch.column(self._run(batch))
        except (TypeError, OverflowError) as error:
            raise DataError(f"expression {syntax.quote(self.text)}: cannot be computed from the branches' types: {error}") from None

    def __reduce__(self) -> tuple[Callable[..., Expression], tuple[str, Mapping[str, Kind] | None]]:
        return compile_expression, (self.text, self._kinds)


def compile_expression(text: str, kinds: Mapping[str, Kind] | None = None) -> Expression:
    """Compile an expression.

    kinds: the branches there are; without them any name passes for a branch (except constants), and `kind` may stay None.
    Raises ExpressionError, one sentence that quotes the expression.
    """
    if not isinstance(text, str):
        raise ExpressionError(f"an expression is a text, not {type(text).__name__}")
    if len(text) > LONGEST:
        raise ExpressionError(f"expression {syntax.quote(text)}: has {len(text)} characters, {LONGEST} are allowed")
    stripped = re.sub(r"[\r\n]+", " ", text.strip())
    if not stripped:
        raise ExpressionError("an expression is empty; write for example met/sqrt(ht)")
    source, quoted = (stripped, {}) if kinds is None or stripped not in kinds else ("_whole_", {"_whole_": stripped})
    if not quoted:
        source, quoted = _unquote(stripped)
    compiler = syntax.Compiler(stripped, source, quoted, kinds)
    try:
        node = compiler.value(_parse(stripped, source))
    except RecursionError:
        raise ExpressionError(f"expression {syntax.quote(text)}: is nested too deeply") from None
    kind: Kind | None = "flat" if node.kind == "constant" else None if node.kind == "unknown" else node.kind
    used = None if kinds is None else {name: kinds[name] for name in compiler.names}
    return Expression(stripped, frozenset(compiler.names), frozenset(compiler.constants), kind, node.condition != "no", node.run, used)


def _unquote(text: str) -> tuple[str, dict[str, str]]:
    """Put an identifier in the place of each name in backquotes."""
    if "`" not in text:
        return text, {}
    stem = "_quoted"
    while stem in text:
        stem += "_"
    quoted: dict[str, str] = {}

    def replace(match: re.Match[str]) -> str:
        if not match[1].strip():
            raise ExpressionError(f"expression {syntax.quote(text)}: there is no name between two backquotes")
        name = f"{stem}{len(quoted)}"
        quoted[name] = match[1]
        return f" {name} "

    source = re.sub("`([^`]*)`", replace, text).strip()
    if "`" in source:
        raise ExpressionError(f"expression {syntax.quote(text)}: a backquote is not closed")
    return source, quoted


def _parse(text: str, source: str) -> ast.expr:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of things such as "3and x", which are refused or harmless here
            return ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, MemoryError) as error:
        hint = next((advice for pattern, advice in _HINTS if re.search(pattern, source)), "")
        reason = hint or (error.msg if isinstance(error, SyntaxError) else "")
        raise ExpressionError(f"expression {syntax.quote(text)}: is not valid" + (f": {reason}" if reason else "")) from None
