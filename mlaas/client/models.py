"""Models: list, versions, aliases, sharing, download."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlaas.client.documents import Model, Version, read
from mlaas.client.download import fetch
from mlaas.client.paging import pages
from mlaas.client.transport import Connection
from mlaas.console import SILENT, Progress


class Models:
    """The models of the caller, and those that are shared with them ("tenant:name"). Every method raises ServiceError."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> Iterator[Model]:
        """All models."""
        return pages(self._connection, Model, "models")

    def get(self, model: str) -> Model:
        """One model."""
        return read(Model, self._json("GET", model))

    def versions(self, model: str) -> Iterator[Version]:
        """The versions of a model, newest first."""
        return pages(self._connection, Version, "models", model, "versions")

    def version(self, model: str, version: int | str = "") -> Version:
        """One version, by its number or an alias; the latest unless given."""
        return read(Version, self._json("GET", model, "versions", self._wanted(model, version)))

    def card(self, model: str, version: int | str = "") -> Any:
        """The model card: text, or a document, as the service keeps it."""
        with self._connection.send("GET", *self._place(model, version, "card"), whole=True) as answer:
            return answer.json() if "json" in answer.headers.get("Content-Type", "") else answer.text

    def report(self, model: str, target: Path | str, *, version: int | str = "", path: str = "index.html", progress: Progress = SILENT) -> Path:
        """Get a file of the report."""
        return fetch(self._connection, (*self._place(model, version, "report")[2:], *path.split("/")), Path(target), progress=progress)

    def download(self, model: str, target: Path | str, *, version: int | str = "", progress: Progress = SILENT) -> Path:
        """Get a version as an archive (.tar.gz of a bundle, which TFaaS takes, too)."""
        return fetch(self._connection, self._place(model, version, "archive")[2:], Path(target), progress=progress)

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Let an alias ("production") stand for a version."""
        self._json("PUT", model, "aliases", alias, json={"version": version})

    def remove_alias(self, model: str, alias: str) -> None:
        """Remove an alias; the version stays."""
        self._json("DELETE", model, "aliases", alias)

    def share(self, model: str, group: str) -> None:
        """Let the members of a group see and use a model."""
        self._json("POST", model, "shares", json={"group": group}, repeat=True)

    def unshare(self, model: str, group: str) -> None:
        """Share a model with a group no longer."""
        self._json("DELETE", model, "shares", params={"group": group})

    def delete(self, model: str, version: int | None = None) -> None:
        """Delete a model, or one version of it."""
        self._json("DELETE", model, *(() if version is None else ("versions", str(version))))

    def _json(self, method: str, *path: str, repeat: bool = False, **options: Any) -> Any:
        return self._connection.json(method, "api", "v1", "models", *path, repeat=repeat, **options)

    def _wanted(self, model: str, version: int | str) -> str:
        return str(version or self.get(model).latest)

    def _place(self, model: str, version: int | str, what: str) -> tuple[str, ...]:
        return ("api", "v1", "models", model, "versions", self._wanted(model, version), what)


def split(reference: str) -> tuple[str, str]:
    """A reference ("name@version", "tenant:name@alias") as the model's name and the version; "" where it names none."""
    name, _, version = reference.partition("@")
    return name, version
