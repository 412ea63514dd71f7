"""Groups of a token, and the roles that they give."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mlaas.auth.identity import Role

MOST_GROUPS = 1000


def same(group: str) -> str:
    """A group in the form that groups are compared in: a leading "/" is optional."""
    return group.removeprefix("/")


def members(groups: Collection[str], wanted: Collection[str]) -> bool:
    """Whether one of the groups is wanted (exact match, case and all; a leading "/" is optional)."""
    return not {same(group) for group in groups}.isdisjoint(same(group) for group in wanted)


def groups_of(claims: Mapping[str, Any], names: Sequence[str]) -> frozenset[str]:
    """The groups of a token: from the first of the claims `names` that is there, a text or a list of texts.

    A text is one group, whatever is in it: a group "atlas admins" must not make anybody a member of "admins". A name with dots that is no claim
    itself is taken as a path ("realm_access.roles").
    """
    for name in names:
        found = claims[name] if name in claims else _path(claims, name)
        if found is not None:
            items = [found] if isinstance(found, str) else found if isinstance(found, list) else []
            return frozenset([item for item in items if isinstance(item, str) and item][:MOST_GROUPS])
    return frozenset()


def _path(claims: Any, name: str) -> Any:
    for part in name.split("."):
        if not isinstance(claims, Mapping):
            return None
        claims = claims.get(part)
    return claims


def roles_of(groups: Collection[str], user_groups: Collection[str], admin_groups: Collection[str]) -> frozenset[Role]:
    """The roles that groups give; empty when they give none. Administrators are users, too. Without `user_groups` everybody is a user."""
    if members(groups, admin_groups):
        return frozenset({"user", "admin"})
    return frozenset({"user"}) if not user_groups or members(groups, user_groups) else frozenset()


def scopes_of(claims: Mapping[str, Any]) -> frozenset[str]:
    """The scopes of a token: `scope`, a text with spaces (RFC 8693), or `scp`, a list or a text."""
    found = claims.get("scope", claims.get("scp", ""))
    items = found.split() if isinstance(found, str) else found if isinstance(found, list) else []
    return frozenset(item for item in items if isinstance(item, str))
