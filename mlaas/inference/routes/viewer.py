"""GET /netron/: the viewer of model graphs, from the files of the package netron. `?model=M` shows a model that the caller may see."""

from __future__ import annotations

import asyncio
import html
import importlib.util
import mimetypes
import re
from functools import cache
from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from mlaas.auth.identity import Identity
from mlaas.inference.context import Context
from mlaas.models.bundle import read_bundle
from mlaas.models.catalogue import Catalogue, NoModel
from mlaas.models.manifest import Manifest
from mlaas.web import identify
from mlaas.web.problem import Problem

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; "
    "worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
KINDS = {".js", ".css", ".json", ".png", ".ico", ".svg"}


def routes(context: Context) -> list[BaseRoute]:
    """The page, its static files, and the files of models that it shows."""
    catalogue = Catalogue(context.places.repository)

    async def page(request: Request) -> Response:
        if not request.url.path.endswith("/"):
            return RedirectResponse(f"netron/{'?' if request.url.query else ''}{request.url.query}", 308)
        reference = request.query_params.get("model", "")
        if not reference:
            return _page("", "")
        who = await identify.identity(request)
        file = await asyncio.to_thread(_shown, catalogue, who, reference)
        return _page(reference, file.name)

    async def data(request: Request) -> Response:
        who = await identify.identity(request)
        file = await asyncio.to_thread(_shown, catalogue, who, request.path_params["model"])
        if file.name != request.path_params["file"]:
            raise Problem(404, f"the viewer shows {file.name} of this model, no other file")
        return FileResponse(file, media_type="application/octet-stream", headers={"Cache-Control": "no-store"})

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        path = _files() / name
        if path.suffix not in KINDS or not path.is_file():
            raise Problem(404, f"the viewer has no file {name!r}")
        return FileResponse(path, media_type=mimetypes.guess_type(name)[0], headers={**HEADERS, "Cache-Control": "max-age=86400"})

    return [
        Route("/netron", page),
        Route("/netron/", page),
        Route("/netron/data/{model}/{file}", data),
        Route("/netron/{name}", static),
    ]


def _page(reference: str, file: str) -> Response:
    response = HTMLResponse(page_of(reference, file), headers={**HEADERS, "Cache-Control": "no-store"})
    # It would ask for consent to reports that it does not make here.
    response.set_cookie("consent", "0", path="/netron/", samesite="strict")
    return response


def page_of(reference: str, file: str) -> str:
    """The page of the viewer, with the file that it opens; as a development version, which reports to nobody and never grows too old to work."""
    text = re.sub(r'<meta name="date" content="[^"]*">', "", (_files() / "index.html").read_text("utf-8"))
    known = ['<meta name="type" content="Python">', '<meta name="version" content="0.0.0">']
    if file:
        known.append(f'<meta name="file" content="/data/{quote(reference, safe="")}/{quote(file)}">')
        known += [f'<meta name="{name}" content="{html.escape(value)}">' for name, value in (("name", reference), ("identifier", file))]
    return re.sub(r'<meta name="version" content="[^"]*">', lambda _: "\n".join(known), text)


def _shown(catalogue: Catalogue, who: Identity, reference: str) -> Path:
    """The file of a model that is shown. Raises Problem 404."""
    try:
        found = catalogue.resolve(reference, who.tenant, who.groups, admin=who.admin)
    except NoModel as error:
        raise Problem(404, str(error), field="model") from None
    bundle = read_bundle(found.path, verify=False)
    return bundle.file(graph_of(bundle.manifest))


def graph_of(manifest: Manifest) -> str:
    """The file with the graph: what is served, in the form that shows the most."""
    if manifest.tensors is None and "model.onnx" in manifest.files:
        return "model.onnx"
    return manifest.native.form


@cache
def _files() -> Path:
    found = importlib.util.find_spec("netron")
    if found is None or found.origin is None:
        raise Problem(503, "the viewer is not installed: pip install netron")
    return Path(found.origin).parent
