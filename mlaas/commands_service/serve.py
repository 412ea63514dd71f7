"""mlaas serve, server, worker, inference."""

from __future__ import annotations

import os
import sys
from argparse import Namespace

from mlaas.errors import UserError
from mlaas.settings import Settings, settings


def serve(options: Namespace) -> None:
    """Run the service on this machine."""
    if sys.stderr.isatty():  # people read what it writes
        os.environ.setdefault("MLAAS_LOG_FORMAT", "text")
        os.environ.setdefault("MLAAS_LOG_LEVEL", "warning")
    chosen = _settings(options)
    _with_extra()
    from mlaas.service.run import serve

    serve(chosen, show_token=options.show_token)


def server(options: Namespace) -> None:
    """Run the server."""
    _part("server", _settings(options))


def worker(options: Namespace) -> None:
    """Run the worker, or let go of the jobs of one that is gone."""
    chosen = _settings(options)
    if options.release is None:
        _part("worker", chosen)
        return
    _with_extra()
    from mlaas.jobs.release import release

    released = release(chosen, options.release)
    print(f"{released} job{'s' if released != 1 else ''} of the worker {options.release or 'without a name'} released")


def inference(options: Namespace) -> None:
    """Run the inference service."""
    _part("inference", _settings(options))


def _settings(options: Namespace) -> Settings:
    """The settings; flags stand for variables, so that processes that are started see them, too."""
    for name, value in vars(options).items():
        if name.startswith("set_") and value is not None:
            os.environ[f"MLAAS_{name.removeprefix('set_').upper()}"] = os.path.expanduser(value) if name == "set_data" else str(value)  # noqa: PTH111
    return settings()


def _with_extra() -> None:
    from mlaas.errors import MissingExtraError

    try:
        import fastapi  # noqa: F401
    except ImportError:
        raise MissingExtraError("the service", "service") from None


def _part(name: str, chosen: Settings) -> None:
    _with_extra()
    from mlaas.service.parts import PARTS

    if status := PARTS[name](chosen, None):
        raise UserError(f"the {name} could not start (status {status}); its log says why")
