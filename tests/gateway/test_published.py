"""The published system's demonstration through the gateway, typed with curl as in the papers: MLaaS and TFaaS on ports of their own."""

from __future__ import annotations

import shutil

import pytest

from tests.service.test_published_demo import material, play

__all__ = ["material"]
USERS = {"apache": "alice", "oauth2-proxy": "dave"}


@pytest.mark.needs("node", "npm", "curl")
def test_the_demonstration(front, service, openid, material, tmp_path):
    folder = tmp_path / "demo"
    shutil.copytree(material, folder)
    ask = folder / "bin" / "oidc-token"
    ask.write_text(ask.read_text().replace("alice", USERS[front.engine]))
    play(folder, service, server=front.url(), inference=front.url("inference"), issuer=openid.plain)
