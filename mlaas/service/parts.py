"""The three parts of the service, each as a function that runs it until SIGTERM and returns the exit status."""

from __future__ import annotations

from collections.abc import Callable

from mlaas.auth.secrets import service_key
from mlaas.errors import MissingExtraError, UserError
from mlaas.places import Places
from mlaas.settings import Settings

SERVER = "mlaas.server.app:create"


def prepare(settings: Settings) -> None:
    """Make what the parts share: the data folder (0700), the secrets, the tables. Safe when several processes do it at once.

    Raises UserError when a folder, secret, setting of the sign-in or the database cannot be used.
    """
    from mlaas.auth.authenticator import Authenticator
    from mlaas.store.database import connect, migrate
    from mlaas.store.errors import StoreError

    places = Places.of(settings)
    for folder in (places.data, places.secrets, places.run):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    Authenticator.of(settings, places)
    try:
        engine = connect(settings)
        migrate(engine)
        engine.dispose()
    except StoreError as error:
        raise UserError(f"MLAAS_DATABASE: {error}") from error


def server(settings: Settings, fd: int | None = None) -> int:
    """The server: API, published calls, pages. fd: a socket that listens already, in place of host and port."""
    from mlaas.web.serving import serve

    prepare(settings)
    return serve(SERVER, settings.host, settings.port, settings, part="server", fd=fd)


def worker(settings: Settings, _fd: int | None = None) -> int:
    """The worker: runs the jobs and publishes what they made."""
    from mlaas.jobs.worker import run

    prepare(settings)
    return int(run(settings) or 0)


def inference(settings: Settings, fd: int | None = None) -> int:
    """The inference service. fd: a socket that listens already, in place of host and inference_port."""
    from mlaas.inference.run import main

    service_key(settings, Places.of(settings))
    return main(settings, fd=fd)


PARTS: dict[str, Callable[[Settings, int | None], int]] = {"server": server, "worker": worker, "inference": inference}


def require_extra() -> None:
    """Raise MissingExtraError where the libraries of the service are not installed."""
    from importlib.util import find_spec

    for library in ("fastapi", "uvicorn", "sqlalchemy", "orjson", "jwt", "prometheus_client"):
        if find_spec(library) is None:
            raise MissingExtraError(library, "service")
