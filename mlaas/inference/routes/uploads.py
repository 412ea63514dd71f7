"""POST /upload and /bundle: models that were trained elsewhere, and bundles."""

from __future__ import annotations

import logging
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mlaas.auth.identity import Identity
from mlaas.inference import receive
from mlaas.inference.context import Context
from mlaas.inference.routes.published import published
from mlaas.inference.uploads import Uploads
from mlaas.models.bundle import Bundle
from mlaas.web import identify

log = logging.getLogger("mlaas.inference.uploads")
FORM = "multipart/form-data"


def routes(context: Context) -> list[BaseRoute]:
    """Both addresses take a form or an archive, as TFaaS's /upload does."""
    uploads = Uploads(context.settings, context.places, context.pool)

    @published
    async def upload(request: Request) -> Response:
        who = await identify.identity(request)
        identify.permit(who, "create")
        with uploads.room() as room:
            bundle = await _take(uploads, request, room, who)
        manifest = bundle.manifest
        log.info("model %s:%s@%d uploaded", who.tenant, manifest.name, manifest.version)
        return JSONResponse({"name": manifest.name, "version": manifest.version})

    return [Route(path, upload, methods=["POST"]) for path in ("/upload", "/bundle")]


async def _take(uploads: Uploads, request: Request, room: Path, who: Identity) -> Bundle:
    if request.headers.get("content-type", "").lower().startswith(FORM):
        parts = await receive.form(request, room, uploads.limits)
        coded = request.headers.get("content-encoding", "").strip().lower() == "base64"
        return await uploads.from_form(parts, room, who.tenant, coded)
    return await uploads.from_archive(await receive.body(request, room, uploads.limits), room, who.tenant, request.query_params.get("name", ""))
