"""The routes beside the predictions: uploads, the list of models, images, the viewer. They go through Starlette."""

from __future__ import annotations

from starlette.routing import BaseRoute

from mlaas.inference.context import Context
from mlaas.inference.routes import images, models, status, uploads, viewer


def routes(context: Context) -> list[BaseRoute]:
    """All of them; asked after the routes of predictions, in this order."""
    parts = (uploads, models, status, images, viewer)
    return [route for part in parts for route in part.routes(context)]
