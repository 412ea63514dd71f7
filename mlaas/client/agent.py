"""Access tokens from oidc-agent, by its socket (OIDC_SOCK): one JSON document there, one back."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from typing import Any

from mlaas.errors import UserError

SECONDS = 20.0  # the agent may have to ask the provider
VALID = 60  # s that a token must still hold
MOST = 1_000_000


def running() -> bool:
    """Whether there is an agent to ask."""
    return bool(os.environ.get("OIDC_SOCK"))


def access_token(*, account: str = "", issuer: str = "", audience: str = "", scope: str = "") -> str:
    """A token of an account that the agent has loaded, or, without an account, of the one that belongs to the issuer.

    Raises UserError with what the agent says.
    """
    wanted = {"account": account} if account else {"issuer": issuer}
    request = {"request": "access_token", **wanted, "min_valid_period": VALID, "application_hint": "mlaas"}
    request |= {name: value for name, value in (("audience", audience), ("scope", scope)) if value}
    answer = _ask(request)
    if answer.get("status") != "success" or not isinstance(answer.get("access_token"), str):
        said = ". ".join(str(answer[part]).strip().rstrip(".") for part in ("error", "info") if answer.get(part))
        raise UserError(f"oidc-agent: {said or 'it gives no token'}; the accounts that it has loaded are listed by: oidc-add --loaded")
    return str(answer["access_token"])


def _ask(request: dict[str, Any]) -> dict[str, Any]:
    path = os.environ.get("OIDC_SOCK", "")
    if not path:
        raise UserError('oidc-agent: OIDC_SOCK is not set; start the agent with: eval "$(oidc-agent)"')
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(SECONDS)
            link.connect(path)
            link.sendall(json.dumps(request).encode())
            answer = json.loads(_answer(link))
    except TimeoutError:
        raise UserError(f"oidc-agent: no answer within {SECONDS:.0f} s; perhaps it waits for you to confirm") from None
    except OSError as error:
        raise UserError(
            f'oidc-agent: OIDC_SOCK={path} is not the socket of a running agent ({error.strerror}); start it: eval "$(oidc-agent)"'
        ) from None
    except ValueError:
        raise UserError("oidc-agent: its answer is not understood") from None
    return answer if isinstance(answer, dict) else {}


def _answer(link: socket.socket) -> bytes:
    """Read until the document is whole or the agent closes."""
    text = b""
    while len(text) < MOST and (piece := link.recv(65_536)):
        text += piece
        with contextlib.suppress(ValueError):
            json.loads(text)
            break
    return text
