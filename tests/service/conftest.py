"""Fixtures of the service's tests."""

from __future__ import annotations

from tests.service.openid import openid

__all__ = ["openid"]
