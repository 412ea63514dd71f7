"""One connection to a server: the token, retries of what may be repeated, redirects, and errors as one sentence."""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import httpx

from mlaas import __version__
from mlaas.client.address import checked, loopback, origin
from mlaas.client.errors import NotSignedIn, ServiceError
from mlaas.errors import UserError

SAFE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
BUSY = frozenset({502, 503, 504})
CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
ATTEMPTS = 5
LONGEST_WAIT = 30.0  # s
REDIRECTS = 5
ERROR_BYTES = 65_536
Content = Callable[[], Iterable[bytes]]
"""A body that is made anew for every attempt."""


class TokenSource(Protocol):
    """Where a token comes from."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    def token(self, *, renew: bool = False) -> str:
        """The token; "" for none. renew: the last one was refused; get another if that is possible, else return the same."""
        ...


class Connection:
    """Requests to one server.

    A token goes to the origin (scheme, host, port) of the server only. GET, HEAD, PUT, DELETE and what is marked as repeatable are tried
    again, up to `attempts` times in all, when the connection breaks or the server is busy (502, 503, 504; Retry-After is honoured).
    """

    def __init__(
        self, server: httpx.URL, token: TokenSource | None, *, ca_file: Path | None = None, insecure: bool = False, attempts: int = ATTEMPTS
    ) -> None:
        self.server = server
        self.source = token
        self._insecure = insecure
        self._attempts = attempts
        self._reached = False
        timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
        headers = {"User-Agent": f"mlaas/{__version__}"}
        self._http = httpx.Client(verify=trust(ca_file), timeout=timeout, headers=headers, trust_env=True)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def url(self, *parts: str) -> httpx.URL:
        """The address of a path below the server, each part escaped."""
        path = "/".join(quote(part, safe="") for part in parts)
        return httpx.URL(f"{str(self.server).rstrip('/')}/{path}")

    def json(self, method: str, *parts: str, repeat: bool = False, **options: Any) -> Any:
        """Send a request and return the JSON of the answer (None when it is empty). Raises ServiceError."""
        with self.send(method, *parts, repeat=repeat, whole=True, **options) as answer:
            return _json(answer) if answer.content else None

    @contextmanager
    def send(
        self, method: str, *parts: str, repeat: bool = False, whole: bool = False, content: Content | None = None, **options: Any
    ) -> Iterator[httpx.Response]:
        """Send a request; the answer is open for reading within the context, or read already (`whole`). Raises ServiceError unless it is 2xx."""
        answer = self._patiently(method, self.url(*parts), repeat or method in SAFE, whole, content, options)
        try:
            yield answer
        except httpx.HTTPError as error:
            raise ServiceError(f"the connection to {self.server} broke: {_said(error)}") from None
        finally:
            answer.close()

    def _patiently(self, method: str, url: httpx.URL, repeat: bool, whole: bool, content: Content | None, options: dict[str, Any]) -> httpx.Response:
        renewed, attempt = False, 0
        while True:
            attempt += 1
            last = attempt >= self._attempts or not repeat
            try:
                answer = self._once(method, url, content, options, renew=renewed)
                if whole and answer.is_success:
                    answer.read()
            except httpx.HTTPError as error:
                self._give_up(error, attempt, last)
                time.sleep(_pause(attempt, None))
                continue
            self._reached = True
            if answer.status_code == httpx.codes.UNAUTHORIZED and self.source and not renewed and origin(answer.url) == origin(self.server):
                answer.close()
                renewed = True
            elif answer.status_code in BUSY and not last:
                answer.close()
                time.sleep(_pause(attempt, answer.headers.get("Retry-After")))
            elif answer.status_code == httpx.codes.NOT_FOUND and method == "DELETE" and attempt > 1:
                answer.close()  # an attempt whose answer was lost has deleted it
                return httpx.Response(httpx.codes.NO_CONTENT, content=b"", request=answer.request)
            elif answer.is_success:
                return answer
            else:
                raise _error(answer)

    def _give_up(self, error: httpx.HTTPError, attempt: int, last: bool) -> None:
        """Raise, unless another attempt makes sense: a request that did not get as far as a connection may always be repeated."""
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            last = attempt >= (self._attempts if self._reached else 2) or _certificate(error)
        if last:
            raise ServiceError(f"{self.server} cannot be reached: {_said(error)}{_cure(self.server, error)}") from None

    def _once(self, method: str, url: httpx.URL, content: Content | None, options: dict[str, Any], *, renew: bool) -> httpx.Response:
        """One attempt, redirects included. A redirect to elsewhere is followed for GET only, and without the token."""
        options = dict(options)
        given: Mapping[str, str] = options.pop("headers", {})
        for _ in range(REDIRECTS + 1):
            headers = {**given, **self._authorization(url, renew=renew)}
            if content:
                options["content"] = content()
            answer = self._http.send(self._http.build_request(method, url, headers=headers, **options), stream=True)
            if not answer.has_redirect_location:
                return answer
            answer.close()
            target = answer.url.join(answer.headers["Location"])
            if origin(target) != origin(url):
                if (url.scheme, target.scheme, target.host) == ("http", "https", url.host):
                    raise ServiceError(f"{self.server} wants to be asked by https; give its address as https://{target.netloc.decode()}")
                if method not in {"GET", "HEAD"} or target.scheme not in {"http", "https"}:
                    raise ServiceError(f"{url} sends this request on to {target.host}; if that is your server, give its address with --server")
                checked(target, insecure=self._insecure)
            options.pop("params", None)
            url = target
        raise ServiceError(f"{self.server} redirects in a circle; is this the address of the service?")

    def _authorization(self, url: httpx.URL, *, renew: bool) -> dict[str, str]:
        if self.source is None or origin(url) != origin(self.server):
            return {}
        token = self.source.token(renew=renew)
        return {"Authorization": f"Bearer {token}"} if token else {}


def trust(ca_file: Path | None) -> ssl.SSLContext:
    """What the operating system trusts (and SSL_CERT_FILE, SSL_CERT_DIR), or the given authorities only."""
    if ca_file is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise UserError(f"ca_file: {ca_file} holds no CA certificates in PEM form ({error})") from None


def _pause(attempt: int, wanted: str | None) -> float:
    """Seconds until the next attempt: what the server wants, else twice as long each time, with some chance so that clients do not come at once."""
    if wanted and wanted.isascii() and wanted.isdigit():
        return min(float(wanted), LONGEST_WAIT)
    return float(min(0.25 * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.0))  # noqa: S311 - no secret


def _certificate(error: Exception) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def _said(error: Exception) -> str:
    kinds: dict[type[Exception], str] = {
        httpx.ConnectTimeout: "no answer to the connection",
        httpx.ReadTimeout: "no answer in time",
        httpx.WriteTimeout: "it takes nothing in",
    }
    text = kinds.get(type(error), "") or " ".join(str(error).split()) or type(error).__name__
    return text.removeprefix("[Errno 111] ").removeprefix("[Errno -2] ")


def _cure(server: httpx.URL, error: Exception) -> str:
    if _certificate(error):
        return "; if it belongs to a site of its own authority, name its CA certificates with --ca-file"
    if not isinstance(error, httpx.ConnectError):
        return ""
    return "; start the service with: mlaas serve; or name another with --server" if loopback(server.host) else "; is this its address (--server)?"


def _json(answer: httpx.Response) -> Any:
    if "json" not in answer.headers.get("Content-Type", ""):
        raise ServiceError(f"{answer.url.host} answered with a page, not with the API; check the address of the server, and sign in (mlaas login)")
    try:
        return answer.json()
    except ValueError:
        raise ServiceError(f"{answer.url} did not answer with JSON", status=answer.status_code) from None


def _error(answer: httpx.Response) -> ServiceError:
    """The server's own sentence, whatever form it has."""
    problem = _problem(answer)
    detail = str(problem.get("detail") or problem.get("error") or "").strip() or f"{answer.url.host} answered {answer.status_code}"
    kind = NotSignedIn if answer.status_code == httpx.codes.UNAUTHORIZED else ServiceError
    if kind is NotSignedIn:
        detail = f"{detail.rstrip('.')}; sign in with: mlaas login"
    identifier = str(problem.get("request_id") or answer.headers.get("X-Request-ID") or "")
    return kind(detail, status=answer.status_code, field=str(problem.get("field") or ""), request_id=identifier)


def _problem(answer: httpx.Response) -> dict[str, Any]:
    kind = answer.headers.get("Content-Type", "")
    try:
        body = b""
        for piece in answer.iter_bytes():
            body += piece
            if len(body) > ERROR_BYTES:
                break
        if "json" in kind:
            import json

            found = json.loads(body)
            return found if isinstance(found, dict) else {}
        return {"detail": body.decode("utf-8", "replace")[:500]} if kind.startswith("text/plain") else {}
    except (httpx.HTTPError, ValueError):
        return {}
    finally:
        answer.close()
