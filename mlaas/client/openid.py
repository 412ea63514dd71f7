"""OpenID providers, from the side of a public client: discovery, the device flow (RFC 8628), refreshing and revoking tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from mlaas.client.address import checked
from mlaas.client.errors import NotSignedIn, ServiceError
from mlaas.client.logins import Login
from mlaas.client.transport import trust

DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
SECONDS = 30.0
INTERVAL, SLOWER = 5.0, 5.0  # s, as RFC 8628 says
EARLY = 30.0  # s before its end that a token is no longer used


@dataclass(frozen=True)
class Code:
    """What the user must do in a browser: open `address` and enter `code`, or open `whole`, which holds the code. It is good for `seconds`."""

    address: str
    code: str
    whole: str
    seconds: float


class Provider:
    """An issuer and its endpoints. Raises ServiceError when it cannot be reached or is not one."""

    def __init__(self, issuer: str, *, ca_file: Path | None = None) -> None:
        self.issuer = issuer
        checked(httpx.URL(issuer))
        self._http = httpx.Client(verify=trust(ca_file), timeout=SECONDS)
        found = self._get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != issuer:
            raise ServiceError(f"{issuer} says that it is {found.get('issuer')!r}; the service must name its issuer exactly as it names itself")
        self.endpoints = {name: str(value) for name, value in found.items() if name.endswith("_endpoint")}
        for address in self.endpoints.values():
            checked(httpx.URL(address))

    def device_login(self, login: Login, show: Callable[[Code], None]) -> Login:
        """Sign in: `show` tells the user what to do; returns when they have done it. Raises NotSignedIn when they refuse or let it expire."""
        endpoint = self.endpoints.get("device_authorization_endpoint")
        if not endpoint:
            raise ServiceError(f"{self.issuer} has no device flow; get a token elsewhere (oidc-agent), and give it with BEARER_TOKEN_FILE")
        given = self._post(endpoint, _some(client_id=login.client_id, scope=login.scope, audience=login.audience))
        if "device_code" not in given:
            raise ServiceError(f"{self.issuer} gives no device code: {_reason(given)}")
        whole = str(given.get("verification_uri_complete", ""))
        show(Code(str(given.get("verification_uri", "")), str(given.get("user_code", "")), whole, float(given.get("expires_in", 600))))
        return self._wait(login, given)

    def _wait(self, login: Login, given: dict[str, Any]) -> Login:
        pause, until = float(given.get("interval", INTERVAL)), time.monotonic() + float(given.get("expires_in", 600))
        while time.monotonic() < until:
            time.sleep(pause)
            try:
                answer = self._post(
                    self.token_endpoint, {"grant_type": DEVICE, "device_code": str(given["device_code"]), "client_id": login.client_id}
                )
            except ServiceError:
                pause = min(pause * 2, 60.0)  # RFC 8628, 3.5: back off when the connection fails
                continue
            match answer.get("error"):
                case None:
                    return self._tokens(login, answer)
                case "authorization_pending":
                    pass
                case "slow_down":
                    pause += SLOWER
                case "access_denied":
                    raise NotSignedIn("signing in was refused in the browser")
                case "expired_token":
                    break
                case _:
                    raise NotSignedIn(f"{self.issuer} refuses: {_reason(answer)}")
        raise NotSignedIn("the code was not used in time; try again: mlaas login")

    def refresh(self, login: Login) -> Login:
        """New tokens by the refresh token. Raises NotSignedIn when the provider wants the user to sign in again."""
        answer = self._post(self.token_endpoint, {"grant_type": "refresh_token", "refresh_token": login.refresh_token, "client_id": login.client_id})
        if "error" in answer:
            raise NotSignedIn(f"your sign-in at {login.issuer} has ended ({_reason(answer)}); sign in again: mlaas login --server {login.server}")
        return self._tokens(login, answer)

    def revoke(self, login: Login) -> None:
        """Tell the provider that the tokens are not needed any more, where it takes that."""
        if (endpoint := self.endpoints.get("revocation_endpoint")) and login.refresh_token:
            self._post(endpoint, {"token": login.refresh_token, "token_type_hint": "refresh_token", "client_id": login.client_id})

    @property
    def token_endpoint(self) -> str:
        """Where tokens come from."""
        if "token_endpoint" not in self.endpoints:
            raise ServiceError(f"{self.issuer} names no token endpoint")
        return self.endpoints["token_endpoint"]

    def _tokens(self, login: Login, answer: dict[str, Any]) -> Login:
        token = answer.get("access_token")
        if not isinstance(token, str) or not token:
            raise ServiceError(f"{self.issuer} gave no access token")
        lasts = float(answer.get("expires_in") or 0)
        return replace(
            login,
            issuer=self.issuer,
            token_endpoint=self.token_endpoint,
            access_token=token,
            refresh_token=str(answer.get("refresh_token") or login.refresh_token),
            expires=time.time() + lasts if lasts else 0.0,
        )

    def _get(self, address: str) -> dict[str, Any]:
        return self._document(lambda: self._http.get(address))

    def _post(self, address: str, form: dict[str, str]) -> dict[str, Any]:
        return self._document(lambda: self._http.post(address, data=form))

    def _document(self, ask: Callable[[], httpx.Response]) -> dict[str, Any]:
        try:
            answer = ask()
            found = answer.json() if answer.content else {}
        except httpx.HTTPError as error:
            raise ServiceError(f"the OpenID provider {self.issuer} cannot be reached: {error}") from None
        except ValueError:
            raise ServiceError(f"{self.issuer} does not answer as an OpenID provider does (status {answer.status_code})") from None
        if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise ServiceError(f"the OpenID provider {self.issuer} fails (status {answer.status_code})", status=answer.status_code)
        return found if isinstance(found, dict) else {}

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def fresh(login: Login, now: float) -> bool:
    """Whether the access token is still good."""
    return not login.expires or now < login.expires - EARLY


def _some(**fields: str) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value}


def _reason(answer: dict[str, Any]) -> str:
    return str(answer.get("error_description") or answer.get("error") or "no reason given")
