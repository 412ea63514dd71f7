"""Access tokens of OpenID providers: signed JWTs (RFC 9068, WLCG common JWT profiles), verified without asking the provider about each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jwt

from mlaas.auth.errors import AuthError
from mlaas.auth.groups import groups_of, roles_of, scopes_of
from mlaas.auth.identity import Identity, tenant_of
from mlaas.auth.issuer import KEY_TYPES, Issuer
from mlaas.errors import UserError
from mlaas.settings import Settings

NEEDED = ["iss", "sub", "aud", "exp"]
OF_ID_TOKENS = ("nonce", "at_hash", "c_hash")  # claims that tell a client's ID token from a token for us where both have one audience
BEARER = "Bearer"  # Keycloak before 24 puts the nonce into access tokens, too, and names their type
LONGEST_NAME = 200  # characters
_Damaged = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)


class Oidc:
    """The issuers of the settings, and what their tokens must have. Raises UserError when the settings cannot be meant so."""

    def __init__(self, settings: Settings) -> None:
        _check(settings)
        self._settings = settings
        self.issuers = {url: Issuer(url, settings.oidc_ca_file) for url in settings.oidc_issuers}

    async def identity(self, token: str) -> Identity:
        """Verify a token. Raises AuthError with a sentence that tells what is wrong with it."""
        header, issuer = self._look(token)
        claims = await self._verified(token, header, issuer)
        return self._identity(issuer, claims)

    def _look(self, token: str) -> tuple[Mapping[str, Any], Issuer]:
        """The header and the issuer of a token that nothing is known about yet."""
        try:
            header = jwt.get_unverified_header(token)
            issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
        except _Damaged:
            raise AuthError("the token is not a JWT, or it is damaged") from None
        algorithm = header.get("alg")
        if algorithm not in self._settings.oidc_algorithms:
            raise AuthError(f"the token's signature algorithm is not accepted (accepted: {', '.join(self._settings.oidc_algorithms)})")
        if "crit" in header:
            raise AuthError("the token asks for extensions that are not known here (crit)")
        if not isinstance(issuer, str) or issuer not in self.issuers:
            raise AuthError("the token is from an issuer that is not trusted here")
        return header, self.issuers[issuer]

    async def _verified(self, token: str, header: Mapping[str, Any], issuer: Issuer) -> dict[str, Any]:
        keys = await issuer.keys(header.get("kid"), header["alg"])
        if not keys:
            raise AuthError("the token is signed with a key that its issuer does not have")
        for key in keys[:-1]:
            try:
                return self._decode(token, key, header["alg"], issuer.url)
            except jwt.InvalidSignatureError:
                continue
        return self._told(token, keys[-1], header["alg"], issuer.url)

    def _decode(self, token: str, key: jwt.PyJWK, algorithm: str, issuer: str) -> dict[str, Any]:
        found: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self._settings.oidc_audiences,
            issuer=issuer,
            leeway=self._settings.oidc_leeway,
            options={"require": NEEDED, "verify_sub": True},
        )
        return found

    def _told(self, token: str, key: jwt.PyJWK, algorithm: str, issuer: str) -> dict[str, Any]:
        try:
            return self._decode(token, key, algorithm, issuer)
        except jwt.ExpiredSignatureError:
            raise AuthError("the token has expired; sign in again") from None
        except jwt.ImmatureSignatureError:
            raise AuthError("the token is not valid yet; is this machine's clock right?") from None
        except jwt.InvalidAudienceError:
            raise AuthError(f"the token is for another audience (this service: {', '.join(self._settings.oidc_audiences)})") from None
        except jwt.MissingRequiredClaimError as error:
            raise AuthError(f"the token has no claim {error.claim!r}") from None
        except jwt.InvalidSignatureError:
            raise AuthError("the token's signature is wrong") from None
        except _Damaged:
            raise AuthError("the token has a claim of the wrong type") from None

    def _identity(self, issuer: Issuer, claims: Mapping[str, Any]) -> Identity:
        if any(claim in claims for claim in OF_ID_TOKENS) and claims.get("typ") != BEARER:
            raise AuthError("this is an ID token, which tells a client who signed in; an access token is needed")
        subject = claims["sub"]
        if not isinstance(subject, str) or not subject:
            raise AuthError("the token names no subject")
        groups = groups_of(claims, self._settings.oidc_groups_claims)
        roles = roles_of(groups, self._settings.user_groups, self._settings.admin_groups)
        if not roles:
            allowed = ", ".join(self._settings.user_groups)
            raise AuthError(f"none of your groups may use this service; it is for members of {allowed}", status=403, error="insufficient_scope")
        return Identity(
            tenant=tenant_of(issuer.url, subject),
            subject=subject,
            issuer=issuer.url,
            name=_name(claims) or subject,
            groups=groups,
            roles=roles,
            scopes=scopes_of(claims),
            expires=float(claims["exp"]),
        )

    def end_session(self, identity: Identity) -> str:
        """Where a browser ends the session of an identity at its provider (RP-initiated logout); empty where the provider has no such address."""
        issuer = self.issuers.get(identity.issuer)
        return issuer.end_session if issuer else ""

    def expired(self, identity: Identity) -> bool:
        """Whether the token of an identity has expired since it was verified."""
        return 0 < identity.expires <= time.time() - self._settings.oidc_leeway


def _name(claims: Mapping[str, Any]) -> str:
    """What people call the subject, as far as the token tells."""
    found = (claims.get(claim) for claim in ("name", "preferred_username", "email"))
    return next((item[:LONGEST_NAME] for item in found if isinstance(item, str) and item), "")


def _check(settings: Settings) -> None:
    if not settings.oidc_issuers:
        raise UserError("MLAAS_OIDC_ISSUERS: name at least one issuer, or set MLAAS_AUTH=token")
    if not settings.oidc_audiences:
        raise UserError("MLAAS_OIDC_AUDIENCES: name at least one audience; tokens for other services must not work here")
    wrong = [name for name in settings.oidc_algorithms if name not in jwt.algorithms.requires_cryptography or name[:2] not in KEY_TYPES]
    if wrong or not settings.oidc_algorithms:
        known = ", ".join(sorted(jwt.algorithms.requires_cryptography))
        raise UserError(f"MLAAS_OIDC_ALGORITHMS: {', '.join(wrong) or 'an empty list'} is not possible; allowed: {known}")
