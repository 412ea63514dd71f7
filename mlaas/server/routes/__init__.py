"""The routes of API v1: each reads a request, calls the part that does the work, and says what came of it."""

from __future__ import annotations

from mlaas.server.routes import jobs, models, predictions, service, workspaces

ROUTERS = (service.routes, workspaces.routes, jobs.routes, models.routes, predictions.routes)
