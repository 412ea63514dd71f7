"""What the service is, and who the caller is."""

from __future__ import annotations

from mlaas import __version__
from mlaas.server import wire
from mlaas.server.deps import SECURED, Context, Parts, Reader
from mlaas.server.routing import problem, problems, router
from mlaas.settings import Settings
from mlaas.store import jobs

routes = router("", "service")


@routes.get("/service", operation_id="get_service", responses={503: problem("The service is starting or stopping.")})
def service(parts: Parts) -> wire.Service:
    """What a client must know before it has a token."""
    settings = parts.settings
    oidc = settings.auth == "oidc"
    return wire.Service(
        version=__version__,
        auth=settings.auth,
        issuers=settings.oidc_issuers if oidc else [],
        client_id=settings.oidc_client_id if oidc else "",
        scope=settings.oidc_scope if oidc else "",
        audience=settings.oidc_audiences[0] if oidc and settings.oidc_audiences else "",
        inference_url=inference_public_url(settings),
        grpc_port=settings.grpc_port or None,
    )


def inference_public_url(settings: Settings) -> str:
    """The address of the inference service as users see it."""
    scheme = "https" if settings.tls_certificate else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return settings.inference_public_url or f"{scheme}://{host}:{settings.inference_port}"


@routes.get("/me", operation_id="get_me", dependencies=SECURED, responses=problems())
def me(parts: Parts, identity: Reader) -> wire.Me:
    """The caller, with what they use and what they may."""
    return wire.Me(
        tenant=identity.tenant,
        name=identity.name,
        issuer=identity.issuer,
        groups=sorted(identity.groups),
        roles=sorted(identity.roles),
        usage=usage(parts, identity.tenant),
        limits=limits(parts.settings),
    )


def usage(parts: Context, tenant: str) -> wire.Usage:
    """What a tenant has now."""
    found = jobs.totals(parts.engine, tenant)
    return wire.Usage(
        queued=found.queued,
        running=found.running,
        cpus=found.cpus,
        memory=found.memory,
        disk=parts.workspaces.usage(tenant),
        cpu_seconds=found.cpu_seconds,
    )


def limits(settings: Settings) -> wire.Limits:
    """What one user may have."""
    return wire.Limits(jobs=settings.user_jobs, cpus=settings.user_cpus or None, memory=settings.user_memory or None, disk=settings.user_disk or None)
