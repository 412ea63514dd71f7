"""The exceptions that MLaaS4HEP raises on purpose.

    MLaaSError                     anything below; its text is one sentence for the user
    |-- UserError                  the user can mend it; exit code 2
    |   |-- WorkflowError          a field of the workflow document is wrong (names the field)
    |   |-- ExpressionError        an expression or cut cannot be compiled
    |   |-- DataError              a file, tree or branch is missing, damaged or unusable
    |   |-- ModelError             model.py, or what it returned, cannot be used
    |   |-- BundleError            a bundle is missing, damaged or needs trust
    |   |-- MissingExtraError      a framework is not installed (names the extra)
    |   `-- ResourceError          memory or disk does not suffice
    `-- Cancelled                  stopped by a signal; exit code 130

Whatever else escapes is a fault of the program: the command line shows a short notice and `--debug` the traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MLaaSError(Exception):
    """Base of all errors raised on purpose; `str(error)` is one sentence for the user."""

    exit_code = 1


class UserError(MLaaSError):
    """Something the user can mend."""

    exit_code = 2


class WorkflowError(UserError):
    """A field of the workflow document is wrong; the text names the field and what is allowed."""


class ExpressionError(UserError):
    """An expression or a cut of the user cannot be compiled."""


class DataError(UserError):
    """A file, tree or branch is missing, damaged or unusable."""


class ModelError(UserError):
    """The user's model file, or what it returned, cannot be used."""


class BundleError(UserError):
    """A bundle is missing, damaged, or needs the user's trust to be loaded."""


class MissingExtraError(UserError):
    """A framework is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'mlaas[{extra}]'")
        self.package = package
        self.extra = extra


class ResourceError(UserError):
    """Memory or disk does not suffice."""


class Cancelled(MLaaSError):
    """The run was stopped by a signal (Ctrl-C or SIGTERM)."""

    exit_code = 130


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the known name closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
