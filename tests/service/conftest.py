"""Fixtures of the service's tests."""

from __future__ import annotations

from tests.service.docker_engine import docker_engine
from tests.service.openid import openid
from tests.service.postgres import postgres

__all__ = ["docker_engine", "openid", "postgres"]
