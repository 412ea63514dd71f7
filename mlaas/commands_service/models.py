"""mlaas models: list, show, download, alias, share, report, delete."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from mlaas.commands_service.session import connected, shown
from mlaas.commands_service.text import ago, figure, note, pairs, show, table, when
from mlaas.errors import UserError
from mlaas.sizes import write_size


def models(options: Namespace) -> None:
    """List models."""
    from mlaas.client.documents import plain

    with connected(options) as client:
        found = list(client.models.list())
    if options.json:
        show(plain(found))
    elif not found:
        note("no models yet; train one with: mlaas submit")
    else:
        rows = (
            (model.name, str(model.latest), str(len(model.versions)), _aliases(model.aliases), ", ".join(model.groups), ago(model.updated))
            for model in found
        )
        table(("MODEL", "LATEST", "VERSIONS", "ALIASES", "SHARED WITH", "UPDATED"), rows)


def _aliases(aliases: dict[str, int]) -> str:
    return ", ".join(f"{alias}={version}" for alias, version in sorted(aliases.items()))


def describe(options: Namespace) -> None:
    """Show a model and its versions."""
    from mlaas.client.documents import plain

    with connected(options) as client:
        model = client.models.get(options.model)
        versions = list(client.models.versions(options.model))
    if options.json:
        show({**plain(model), "versions": plain(versions)})
        return
    pairs(
        [
            ("model", model.name),
            ("owner", model.owner if model.shared else ""),
            ("aliases", _aliases(model.aliases)),
            ("shared with", ", ".join(model.groups)),
            ("updated", when(model.updated)),
        ]
    )
    print()
    table(("VERSION", "CREATED", "FRAMEWORK", "TASK", "ENGINE", "SIZE", "TEST"), map(_row, versions))


def _row(version: Any) -> tuple[str, ...]:
    names = ("auc", "accuracy", "loss", "r2", "mse", "rmse")
    test = "  ".join(f"{name} {figure(version.metrics[name])}" for name in names if isinstance(version.metrics.get(name), int | float))
    return (str(version.version), ago(version.created), version.framework, version.task, version.engine, write_size(version.size), test)


def download(options: Namespace) -> None:
    """Get a version, as a bundle or as its archive."""
    from mlaas.client.models import split
    from mlaas.models.archive import unpack

    name, version = split(options.model)
    stem = name.rpartition(":")[2]
    target = Path(options.output or (f"{stem}.tar.gz" if options.archive else stem))
    if target.exists():
        raise UserError(f"{target} exists already; name another place with --output")
    with connected(options) as client:
        if options.archive:
            print(client.models.download(name, target, version=version, progress=shown(options)))
            return
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".mlaas-", dir=target.absolute().parent) as aside:
            archive = client.models.download(name, Path(aside) / "model.tar.gz", version=version, progress=shown(options))
            unpack(archive, target)
    print(target)


def alias(options: Namespace) -> None:
    """Set or remove an alias."""
    from mlaas.client.models import split

    name, version = split(options.model)
    with connected(options) as client:
        if options.remove:
            client.models.remove_alias(name, options.alias)
            print(f"{name}@{options.alias}  removed")
            return
        number = client.models.version(name, version).version
        client.models.set_alias(name, options.alias, number)
    print(f"{name}@{options.alias}  is version {number}")


def share(options: Namespace) -> None:
    """Share a model with a group, or no longer."""
    with connected(options) as client:
        if options.remove:
            client.models.unshare(options.model, options.group)
            print(f"{options.model}  is not shared with {options.group}")
        else:
            client.models.share(options.model, options.group)
            print(f"{options.model}  is shared with {options.group}; its members call it {client.models.get(options.model).owner}:{options.model}")


def report(options: Namespace) -> None:
    """Get the report of a version."""
    from mlaas.client.models import split

    name, version = split(options.model)
    target = Path(options.output or f"{name.rpartition(':')[2]}-report.html")
    with connected(options) as client:
        print(client.models.report(name, target, version=version, progress=shown(options)))


def delete(options: Namespace) -> None:
    """Delete a model, or one version."""
    from mlaas.client.models import split

    name, version = split(options.model)
    with connected(options) as client:
        number = client.models.version(name, version).version if version else None
        if number is None and not options.all:
            raise UserError(f"this would delete all versions of {name}; say so with --all, or name one as {name}@VERSION")
        client.models.delete(name, number)
    print(f"{options.model}  deleted")
