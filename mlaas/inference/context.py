"""What every route of the inference service works with."""

from __future__ import annotations

from dataclasses import dataclass

from mlaas.inference.served import Pool
from mlaas.inference.tokens import Tokens
from mlaas.places import Places
from mlaas.settings import Settings


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of one worker process.

    tokens: `await context.tokens.identity(scope)` is the caller, or raises Problem 401/403.
    """

    settings: Settings
    places: Places
    pool: Pool
    tokens: Tokens
