"""Log lines of all parts: JSON (or text for people), with the ids of request, job and tenant, and without secrets."""

from __future__ import annotations

import logging
import sys
import threading
import time
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TextIO

import orjson

from mlaas.settings import Settings
from mlaas.web.redact import redact, redacted

_bound: ContextVar[dict[str, Any] | None] = ContextVar("mlaas_log", default=None)
QUIET = ("httpx", "httpcore", "docker", "urllib3", "asyncio", "alembic", "multipart", "python_multipart", "sse_starlette", "grpc")
"""Loggers that tell too much below a warning."""
LONGEST = 32_000  # characters of a message or traceback
_CONTROL = {**dict.fromkeys(range(32)), 10: "\n    ", 9: "\t", 127: None}


def begin(**fields: Any) -> dict[str, Any]:
    """Begin a context (a request, a job): its fields are on every line logged in it, and in the tasks and threads that it starts."""
    context = dict(fields)
    _bound.set(context)
    return context


def bind(**fields: Any) -> None:
    """Add fields to the context at hand; without one, begin one."""
    context = _bound.get()
    if context is None:
        begin(**fields)
    else:
        context.update(fields)


def bound(name: str) -> str:
    """A field of the context at hand, or an empty text."""
    return str((_bound.get() or {}).get(name, ""))


def configure(settings: Settings, part: str, stream: TextIO | None = None) -> None:
    """Send every log line of this process to stderr (or `stream`), in the form of the settings. Calling it again replaces what was."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Json(part) if settings.log_format == "json" else Text(part))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate, logger.disabled = True, False
    logging.getLogger("uvicorn.access").disabled = True  # the middleware writes one line per request
    if settings.log_level != "debug":
        for name in QUIET:
            logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    logging.getLogger("mlaas").critical("a fault of the program", exc_info=(kind, error, trace) if error else None)


class Json(logging.Formatter):
    """One JSON object per line: time (UTC), level, part, logger, message, the fields of the context and those of `extra={"fields": {...}}`."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "part": self._part,
            "logger": record.name,
            "message": redact(_message(record)),
        }
        line |= redacted(_fields(record))
        if trace := _trace(self, record):
            line["trace"] = trace
        return orjson.dumps(line, default=lambda value: redact(_clean(str(value))), option=orjson.OPT_NON_STR_KEYS).decode()


class Text(logging.Formatter):
    """A line for people: time of the day, level, part, message, fields."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        """The line; control characters of a message cannot make up another one."""
        fields = " ".join(f"{name}={value}" for name, value in redacted(_fields(record)).items())
        when = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        line = f"{when} {self._part:<9} {level}{redact(_message(record))}".translate(_CONTROL)
        trace = _trace(self, record)
        return f"{line}  {fields.translate(_CONTROL)}".rstrip() + (f"\n{trace}" if trace else "")


def _utc(when: float) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(when))}.{int(when % 1 * 1000):03d}Z"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, "fields", None)
    return (_bound.get() or {}) | (fields if isinstance(fields, dict) else {})


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except (TypeError, ValueError):
        text = f"{record.msg} {record.args}"
    return _short(text)


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    return redact(_short(formatter.formatException(record.exc_info)))


def _short(text: str) -> str:
    clean = _clean(text)
    return clean if len(clean) <= LONGEST else f"{clean[: LONGEST // 2]} ... {clean[-LONGEST // 2 :]}"


def _clean(text: str) -> str:
    """Without what UTF-8 cannot hold (lone surrogates)."""
    return text.encode("utf-8", "replace").decode()
