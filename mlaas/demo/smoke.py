"""`python -m mlaas.demo.smoke`: use a deployed service once as a physicist would, and say whether it works.

It is refused without a token; it uploads the demo's workflow, trains, predicts the same events by the server and by both protocols of the inference
service, compares the scores, and removes what it made. Each step is a line with its time; the last line says that it passed, or one sentence why not.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
import uuid
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from mlaas.client.client import Client
from mlaas.client.documents import Job
from mlaas.client.tokens import Reading
from mlaas.client.transport import TokenSource, trust
from mlaas.demo.generate import write_pair, write_workflow
from mlaas.demo.requests import write_requests
from mlaas.errors import UserError
from mlaas.models.archive import unpack

TOLERANCE = 1e-4  # most by which the same model's scores may differ between the protocols, which print them with 4 to 7 digits
EVENTS = 4000
SECONDS = 30.0
EARLY = 30.0  # s before its end that a token is no longer used
POLL = 2.0  # s


class SmokeError(UserError):
    """The service does not do what it should."""


@dataclass
class ClientCredentials:
    """Tokens of a client of the OpenID provider, which needs no user."""

    issuer: str
    client: str
    secret: str = field(repr=False)
    scope: str
    audience: str
    ca_file: Path | None
    name: str = "the client's token"
    _token: str = field(default="", repr=False)
    _until: float = 0.0

    def token(self, *, renew: bool = False) -> str:
        """A token that is still good."""
        if renew or time.monotonic() > self._until:
            with httpx.Client(verify=trust(self.ca_file), timeout=SECONDS) as http:
                place = self._document(http.get(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"))["token_endpoint"]
                form = {"grant_type": "client_credentials", "scope": self.scope, "audience": self.audience}
                given = self._document(http.post(place, data={k: v for k, v in form.items() if v}, auth=(self.client, self.secret)))
            self._token = str(given["access_token"])
            self._until = time.monotonic() + float(given.get("expires_in") or SECONDS) - EARLY
        return self._token

    def _document(self, answer: httpx.Response) -> dict[str, Any]:
        found: dict[str, Any] = answer.json() if "json" in answer.headers.get("Content-Type", "") else {}
        if answer.is_error:
            raise SmokeError(f"{self.issuer} answers {answer.status_code} {found.get('error', '')} {found.get('error_description', '')}".rstrip())
        return found


class Smoke:
    """One run against one service."""

    def __init__(self, client: Client, inference: str, source: TokenSource, ca_file: Path | None) -> None:
        self.client, self.source = client, source
        self.name = f"smoke-{uuid.uuid4().hex[:8]}"
        self.inference = httpx.Client(base_url=inference, verify=trust(ca_file), timeout=SECONDS)
        self.folder = Path(tempfile.mkdtemp(prefix="mlaas-smoke-"))
        self.job: Job | None = None

    def run(self, events: int, limit: float) -> None:
        """Raise UserError at the first step that goes wrong."""
        with _step("the service answers"):
            version = self.client.service().version
            print(f"    version {version}")
        with _step("it refuses who has no token"):
            self._refused(self.client.server.join("/api/v1/me"))
            self._refused(self.inference.base_url.join("/v2/models/any"))
        with _step("it knows the owner of the token"):
            me = self.client.me()
            print(f"    {me.name or me.tenant}, groups {', '.join(me.groups) or 'none'}")
        with _step("upload"):
            write_workflow(self.folder / "workflow")
            write_pair(self.folder / "workflow", events, profile="seed")
            self.client.workspaces.upload(self.name, self.folder / "workflow")
        with _step("train"):
            self._train(limit)
        with _step("predict by the server, TFaaS's call and the Open Inference Protocol"):
            self._predict()

    def _refused(self, address: httpx.URL) -> None:
        status = self.inference.get(address, headers={"Accept": "application/json"}).status_code
        if status not in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise SmokeError(f"{address} answers {status} to a request without a token; 401 is right")

    def _train(self, limit: float) -> None:
        names = {"files": "files.txt", "labels": "labels.txt", "model": "model.py", "params": "params.json", "preproc": "preproc.json"}
        self.job = self.client.jobs.submit({"workspace": self.name, "name": self.name, **names})
        until = time.monotonic() + limit
        while not self.job.ended:
            if time.monotonic() > until:
                raise SmokeError(f"the job {self.job.process_name} is still {self.job.state} after {limit:.0f} s {self.job.reason}".rstrip())
            time.sleep(POLL)
            self.job = self.client.jobs.get(self.job.id)
        if self.job.state != "succeeded":
            tail = "".join(self.client.jobs.log(self.job.id, tail=20))
            raise SmokeError(f"the job {self.job.process_name} ended as {self.job.state}: {self.job.reason}\n{tail}".rstrip())

    def _predict(self) -> None:
        model = self.job.model if self.job else self.name
        self.client.models.download(model, self.folder / "model.tar.gz")
        unpack(self.folder / "model.tar.gz", self.folder / "model")
        bundle = self.folder / "model"
        write_requests(self.folder, bundle, model)
        raw = self.client.predict(model, self._read("events.json")).scores
        row = self._ask("/json", "row.json")
        tensor = self._ask(f"/v2/models/{model}/infer", "tensor.json")["outputs"][0]["data"]
        for one, other in [*zip(row, tensor, strict=False), *zip(raw, tensor, strict=True)]:
            if not isinstance(one, float) or abs(one - other) > TOLERANCE:
                raise SmokeError(f"the ways to predict disagree: {row}, {tensor}, {raw}")

    def _read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    def _ask(self, path: str, body: str) -> Any:
        """Ask the inference service; it sees a new model within seconds."""
        until = time.monotonic() + SECONDS
        while True:
            answer = self.inference.post(path, json=self._read(body), headers={"Authorization": f"Bearer {self.source.token()}"})
            if answer.status_code == httpx.codes.OK:
                found = answer.json()
                return [found] if isinstance(found, float) else found
            if answer.status_code != httpx.codes.NOT_FOUND or time.monotonic() > until:
                raise SmokeError(f"{answer.url} answers {answer.status_code}: {answer.text[:300]}")
            time.sleep(POLL)

    def remove(self) -> None:
        """Remove what was made; what cannot be removed stays, and the outcome is told."""
        removals: list[Callable[[], object]] = [lambda: self.client.workspaces.delete(self.name)]
        if self.job is not None:
            job, model = self.job.id, self.job.model
            if not self.job.ended:
                removals.insert(0, lambda: self.client.jobs.cancel(job))
            removals += [lambda: self.client.models.delete(model), lambda: self.client.jobs.delete(job)]
        for remove in removals:
            with suppress(UserError):
                remove()
        self.inference.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def _step(title: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{time.monotonic() - began:7.1f} s  {title}", flush=True)


def _source(options: Namespace) -> TokenSource:
    if options.token_file:
        return Reading(lambda: options.token_file.read_text().strip(), "the token's file")
    if options.issuer and options.client_id and options.client_secret_file:
        secret = options.client_secret_file.read_text().strip()
        return ClientCredentials(options.issuer, options.client_id, secret, options.scope, options.audience, options.ca_file)
    raise SmokeError("no token: give --token-file, or --issuer, --client-id and --client-secret-file")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m mlaas.demo.smoke", description="Use a deployed service once and say whether it works.")
    parser.add_argument("--server", required=True, help="address of the server")
    parser.add_argument("--inference", required=True, help="address of the inference service")
    parser.add_argument("--ca-file", type=Path, help="authorities to trust instead of the system's")
    parser.add_argument("--token-file", type=Path, help="file with the token; read again for each request")
    parser.add_argument("--issuer", default="", help="OpenID provider that gives a client's token")
    parser.add_argument("--client-id", default="")
    parser.add_argument("--client-secret-file", type=Path)
    parser.add_argument("--scope", default="")
    parser.add_argument("--audience", default="")
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--timeout", type=float, default=600.0, help="longest time of the training, waiting included, in seconds")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; 1 when a step failed."""
    options = _parser().parse_args(arguments)
    began = time.monotonic()
    try:
        source = _source(options)
        with Client(options.server, token=source, ca_file=options.ca_file) as client:
            smoke = Smoke(client, options.inference, source, options.ca_file)
            try:
                smoke.run(options.events, options.timeout)
            finally:
                smoke.remove()
    except (UserError, httpx.HTTPError, OSError) as error:
        print(f"smoke: {error}", file=sys.stderr)
        return 1
    print(f"passed in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
