"""What the store raises. `status` is the HTTP status that fits."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from mlaas.errors import MLaaSError

_DISK_FULL = "53100"  # codes of PostgreSQL
_NO_TABLE = "42P01"
_LOCK_TIMEOUT = "55P03"
_SHUT_OUT = ("28", "3D")  # classes of codes: not let in; no such database
logger = logging.getLogger(__name__)


class StoreError(MLaaSError):
    """The database cannot be used now; the request may be sent again later."""

    status = 503


class StoreFullError(StoreError):
    """The disk of the database is full."""

    status = 507


class QuotaError(StoreError):
    """The tenant has no disk left."""

    status = 507


class Conflict(StoreError):
    """What was asked for does not fit what is stored."""

    status = 409


class QueueFull(StoreError):
    """The tenant has as many queued jobs as one may have."""

    status = 429


@contextmanager
def told() -> Iterator[None]:
    """Turn trouble of the database into a StoreError of one sentence. Faults of the program stay what they are."""
    try:
        yield
    except exc.TimeoutError as error:
        raise StoreError("the database is busy: all connections to it are in use") from error
    except exc.DBAPIError as error:
        raise _sentence(error) from error


def _sentence(error: exc.DBAPIError) -> Exception:
    """The StoreError for trouble of the database; the error itself when it is a fault of the program."""
    text = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
    code = str(getattr(error.orig, "sqlstate", None) or "")
    if code == _DISK_FULL or "disk is full" in text:
        return StoreFullError("the disk of the database is full")
    if code == _NO_TABLE or text.startswith("no such table"):
        return StoreError("the database has not been brought to this version yet; it is when the service starts")
    if _is_fault(error):
        return error
    logger.warning("the database: %s", text)
    if code.startswith(_SHUT_OUT) or "password authentication failed" in text:
        return StoreError("the database does not let the service in; see MLAAS_DATABASE and MLAAS_DATABASE_PASSWORD_FILE")
    if "is locked" in text or code == _LOCK_TIMEOUT:
        return StoreError("the database is busy: another process has been writing for too long")
    if "malformed" in text or "not a database" in text:
        return StoreError(f"the file of the database is damaged: {text}")
    return StoreError("the database cannot be reached or used; the log of the service says why")


def _is_fault(error: exc.DBAPIError) -> bool:
    """Whether the database refused what the program asked for, rather than failed."""
    if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
        return True
    broken = isinstance(error, exc.OperationalError | exc.InterfaceError | exc.InternalError) or type(error) is exc.DatabaseError
    return not (error.connection_invalidated or broken)
