"""A browser without a window: follows redirects and fills in the provider's forms."""

from __future__ import annotations

import html
import re

import httpx

from tests.gateway.engine import COOKIE, Gateway

PAGE = {"Accept": "text/html,application/xhtml+xml"}


def browser(gateway: Gateway, door: str = "server") -> httpx.Client:
    """A client that asks for pages and keeps cookies."""
    return gateway.client(door=door, headers=PAGE, follow_redirects=True)


def sign_in(client: httpx.Client, path: str = "/", user: str = "alice") -> httpx.Response:
    """Ask for a page and sign in at the provider; the answer of the page at last."""
    answer = client.get(path)
    for _ in range(6):
        if answer.url.host == client.base_url.host and answer.url.port == client.base_url.port:
            return answer
        answer = submit(client, answer, user)
    raise AssertionError(f"still at the provider: {answer.status_code} {answer.url.path}\n{answer.text[:2000]}")


def submit(client: httpx.Client, page: httpx.Response, user: str = "alice", **more: str) -> httpx.Response:
    """Send the form of a page of the provider; who signs in is `user`. more: fields of buttons."""
    found = re.search(r'<form[^>]*action="([^"]+)"[^>]*>(.*?)</form>', page.text, re.DOTALL)
    assert found, f"no form: {page.status_code} {page.url}\n{page.text[:2000]}"
    fields = {}
    for tag in re.findall(r"<(?:input|button)[^>]*>", found[2]):
        attributes = dict(re.findall(r'(\w+)="([^"]*)"', tag))
        if attributes.get("name"):
            fields[attributes["name"]] = html.unescape(attributes.get("value", ""))
    if "login" in fields:
        fields |= {"login": user, "password": "test"}
    return client.post(page.url.join(html.unescape(found[1])), data=fields | more, headers={"Origin": str(page.url.join("/")).rstrip("/")})


def sessions(client: httpx.Client) -> list[str]:
    """The names of the cookies of a gateway's session."""
    return [
        cookie.name for cookie in client.cookies.jar if cookie.name.startswith(COOKIE) and "state" not in cookie.name and "csrf" not in cookie.name
    ]
