"""From flags to a client."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlaas.commands_service.text import Patient
from mlaas.console import Progress, progress
from mlaas.settings import settings

if TYPE_CHECKING:
    from mlaas.client import Client


@contextmanager
def connected(options: Namespace) -> Iterator[Client]:
    """The client that the flags of a command describe."""
    from mlaas.client import Client
    from mlaas.client.tokens import Fixed, read_token

    chosen = settings()
    if getattr(options, "oidc_agent", None):
        chosen = chosen.model_copy(update={"oidc_agent": options.oidc_agent})
    token = Fixed(read_token(options.token_file), options.token_file) if getattr(options, "token_file", None) else None
    with Client(options.server or "", token=token, ca_file=options.ca_file, insecure=options.insecure, options=chosen) as client:
        yield client


def shown(options: Namespace) -> Progress:
    """Progress of what takes longer than two seconds."""
    return Patient(progress(settings().progress and not options.quiet))
