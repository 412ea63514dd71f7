"""mlaas submit, workspaces: upload what a job needs, and submit it."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlaas.commands_service.collect import Named, needed
from mlaas.commands_service.jobs import follow
from mlaas.commands_service.session import connected, shown
from mlaas.commands_service.text import ago, note, show, table
from mlaas.errors import UserError
from mlaas.sizes import write_size

if TYPE_CHECKING:
    from mlaas.client import Client
    from mlaas.client.packing import Entry
    from mlaas.console import Progress

DOCUMENTS = ("files", "labels", "model", "params", "preproc", "specs")
RESOURCES = ("device", "memory", "cpus", "gpus", "time_limit")


def submit(options: Namespace) -> None:
    """Upload what is needed and submit a training."""
    from mlaas.client.documents import plain

    workspace = options.workspace or _folder_name(Path(options.folder or "."))
    files = None if options.no_upload else _files(options)
    with connected(options) as client:
        if files is not None:
            upload(client, workspace, files, shown(options), quiet=options.quiet)
        job = client.jobs.submit(request(options, workspace))
        if options.json and not options.follow:
            show(plain(job))
            return
        print(job.process_name, flush=True)
        if options.follow:
            follow(client, job, quiet=options.quiet)
        elif not options.quiet:
            note(f"follow it with: mlaas logs -f {job.process_name}")


def _files(options: Namespace) -> list[Entry]:
    from mlaas.client.packing import entries

    if options.folder:
        return entries(Path(options.folder), options.exclude or ())
    return needed(Path(), Named(**{name: getattr(options, name) for name in DOCUMENTS}))


def upload(client: Client, workspace: str, files: list[Entry], progress: Progress, *, quiet: bool = False) -> None:
    """Upload files, unless the workspace holds just these already."""
    size = write_size(sum(file.size for file in files))
    if client.workspaces.same(workspace, files):
        told = f"the workspace {workspace} is up to date ({len(files)} files, {size})"
    else:
        client.workspaces.upload_files(workspace, files, progress=progress)
        told = f"uploaded {len(files)} files, {size}, to the workspace {workspace}"
    if not quiet:
        note(told)


def request(options: Namespace, workspace: str) -> dict[str, Any]:
    """The document that is submitted."""
    given = {name: getattr(options, name) for name in (*DOCUMENTS, *RESOURCES, "dtype", "name")}
    return {"kind": "train", "workspace": workspace} | {name: value for name, value in given.items() if value is not None}


def _folder_name(folder: Path) -> str:
    """The name of a folder as that of its workspace."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.absolute().resolve().name).lstrip("_.-")[:100]
    if not name:
        raise UserError("workspace: the name of this folder cannot be that of a workspace; give one with --workspace")
    return name


def workspaces(options: Namespace) -> None:
    """List workspaces."""
    from mlaas.client.documents import plain

    with connected(options) as client:
        found = list(client.workspaces.list())
    if options.json:
        show(plain(found))
    elif not found:
        note("no workspaces yet; upload a folder with: mlaas workspaces upload FOLDER")
    else:
        table(("WORKSPACE", "FILES", "SIZE", "UPLOADED"), ((item.name, str(item.files), write_size(item.size), ago(item.created)) for item in found))


def upload_folder(options: Namespace) -> None:
    """Upload a folder."""
    from mlaas.client.packing import entries

    folder = Path(options.folder)
    name = options.name or _folder_name(folder)
    files = entries(folder, options.exclude or ())
    with connected(options) as client:
        upload(client, name, files, shown(options), quiet=options.quiet)
    print(name)


def list_files(options: Namespace) -> None:
    """List the files of a workspace."""
    from mlaas.client.documents import plain

    with connected(options) as client:
        found = list(client.workspaces.files(options.workspace))
    if options.json:
        show(plain(found))
    else:
        table(("FILE", "SIZE", "CHANGED"), ((file.path, write_size(file.size), ago(file.modified)) for file in found))


def delete_workspace(options: Namespace) -> None:
    """Delete a workspace."""
    with connected(options) as client:
        client.workspaces.delete(options.workspace)
    print(f"{options.workspace}  deleted")
