"""The Python client of the service: `from mlaas.client import Client`."""

from __future__ import annotations

from mlaas.client.client import Client
from mlaas.client.documents import Event, File, Job, Me, Metrics, Model, Prediction, Service, Version, Workspace
from mlaas.client.errors import NotSignedIn, ServiceError

__all__ = ["Client", "Event", "File", "Job", "Me", "Metrics", "Model", "NotSignedIn", "Prediction", "Service", "ServiceError", "Version", "Workspace"]
