"""The client: a server, a token, and what can be done there."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from mlaas.client import local, logins
from mlaas.client.address import server_address
from mlaas.client.columns import Events, plain
from mlaas.client.documents import Job, Me, Prediction, Service, read
from mlaas.client.jobs import Jobs
from mlaas.client.models import Models
from mlaas.client.tokens import Fixed, Found, find
from mlaas.client.transport import Connection, TokenSource
from mlaas.client.workspaces import Workspaces
from mlaas.settings import Settings, settings


class Client:
    """A service, as one user sees it.

        with Client("https://mlaas.example.org") as client:
            client.workspaces.upload("ttH", "folder")
            job = client.jobs.submit({"workspace": "ttH", "files": "files.txt", "labels": "labels.txt", "model": "model.py"})
            for event in client.jobs.follow(job.id):
                print(event.text)
            print(client.predict("ttH", {"njet": [4], "jet_pt": [[120.5, 80.1, 55.0, 41.2]]}).scores)

    server: its address; unless given MLAAS_SERVER, the server of the last login, or the one on this machine. token: unless given it is looked
    for (`mlaas.client.tokens.find`) when it is first needed. ca_file: authorities to trust instead of the system's (MLAAS_CA_FILE).
    insecure: send the token even over http:// to another machine. Methods raise ServiceError with the server's sentence.
    """

    def __init__(
        self,
        server: str = "",
        *,
        token: str | TokenSource | None = None,
        ca_file: Path | str | None = None,
        insecure: bool = False,
        options: Settings | None = None,
    ) -> None:
        self.settings = options or settings()
        address = server or self.settings.server or logins.current() or local.default_server(self.settings)
        self.server = server_address(address, insecure=insecure)
        authorities = Path(ca_file) if ca_file else self.settings.ca_file or _kept_authorities(str(self.server))
        self._service: Service | None = None
        self._public = Connection(self.server, None, ca_file=authorities, insecure=insecure)
        source = Fixed(token) if isinstance(token, str) else token or Found(lambda: find(self.server, self.service(), self.settings))
        self._connection = Connection(self.server, source, ca_file=authorities, insecure=insecure)
        self.workspaces = Workspaces(self._connection)
        self.jobs = Jobs(self._connection)
        self.models = Models(self._connection)

    def service(self) -> Service:
        """What the service tells before one is signed in."""
        if self._service is None:
            self._service = read(Service, self._public.json("GET", "api", "v1", "service"))
        return self._service

    def me(self) -> Me:
        """The caller, with usage and limits."""
        return read(Me, self._connection.json("GET", "api", "v1", "me"))

    def predict(self, model: str, events: Events) -> Prediction:
        """Scores of raw events: columns by branch name (arrays or lists; jagged branches as lists of lists), or a list of events.

        model: name, name@version, name@alias, or tenant:name for a model that is shared.
        """
        request = {"model": model, "events": plain(events)}
        return read(Prediction, self._connection.json("POST", "api", "v1", "predictions", json=request, repeat=True))

    def predict_files(
        self,
        model: str,
        files: str | list[str],
        *,
        workspace: str | None = None,
        tree: str | None = None,
        format: Literal["root", "parquet"] = "root",
        **resources: Any,
    ) -> Job:
        """Submit a job that scores whole files (paths of the workspace, or URLs); its outputs are friend trees, or Parquet."""
        request = {"kind": "predict", "model": model, "files": files, "workspace": workspace, "tree": tree, "format": format, **resources}
        return self.jobs.submit({name: value for name, value in request.items() if value is not None})

    def close(self) -> None:
        """Close the connections."""
        self._public.close()
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _kept_authorities(server: str) -> Path | None:
    login = logins.get(server)
    return Path(login.ca_file) if login and login.ca_file else None
