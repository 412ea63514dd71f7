"""The one settings object: what a site or a user sets once, by environment variables `MLAAS_*`.

A field that holds a secret is the path of a file, never the secret itself: the environment of a process can be read by others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from mlaas.errors import UserError
from mlaas.sizes import Size


def _items(value: Any) -> Any:
    """Accept a comma list for a list of names."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Items = Annotated[list[str], NoDecode, BeforeValidator(_items)]


class Settings(BaseSettings):
    """Settings of this installation; each is read from the environment variable MLAAS_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="MLAAS_", extra="ignore")

    # ---- the pipeline
    cache: Path = Field(
        Path("~/.cache/mlaas").expanduser(),
        description="Folder of specs and handled data; share it between the machines that prepare and those that fit.",
    )
    memory_limit: str = Field(
        "", description='Most memory for estimators that need all data at once, e.g. "4GB"; empty allows half of what is available.'
    )
    progress: bool = Field(True, description="Show progress bars on a terminal, and progress lines elsewhere.")

    # ---- the service: where it keeps things and where it listens
    data: Path = Field(Path("~/.local/share/mlaas").expanduser(), description="Folder of the service: workspaces, jobs, models, secrets, database.")
    models: Path | None = Field(None, description="Folder of the model repository; empty takes `models` in the data folder.")
    database: str = Field("", description="SQLAlchemy URL of the database; empty takes SQLite in the data folder.")
    database_password_file: Path | None = Field(None, description="File with the password of the database's user, so that the URL need not hold it.")
    host: str = Field("127.0.0.1", description="Address that the server and the inference service listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port of the server.")
    inference_port: int = Field(8081, ge=0, le=65535, description="Port of the inference service (HTTP).")
    grpc_port: int = Field(8082, ge=0, le=65535, description="Port of the inference service (gRPC); 0 leaves gRPC out.")
    trusted_proxies: Items = Field(
        ["127.0.0.1", "::1"], description="Addresses or networks of gateways whose X-Forwarded-For and -Proto are believed (comma list)."
    )
    tls_certificate: Path | None = Field(
        None, description="Certificate chain (PEM) of the server and the inference service; empty serves without TLS."
    )
    tls_key: Path | None = Field(None, description="Private key (PEM) that belongs to the certificate.")
    public_url: str = Field("", description="Address of the server as users see it, behind a gateway; empty takes the host and port.")
    inference_public_url: str = Field("", description="Address of the inference service as users see it; empty takes the host and port.")
    inference_url: str = Field("", description="Address at which the server reaches the inference service; empty takes the host and inference_port.")
    service_key_file: Path | None = Field(
        None, description="Key that sessions and calls between the parts are signed with; empty takes `secrets/service-key` in the data folder."
    )
    log_format: Literal["json", "text"] = Field("json", description="Form of the log lines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe log lines that are written.")
    shutdown_timeout: float = Field(20.0, ge=0, description="Seconds that running requests get to finish when the service stops.")

    # ---- the commands that talk to a service
    server: str = Field("", description="Address of the server that the commands talk to; empty takes that of the last login, else this machine's.")
    ca_file: Path | None = Field(None, description="CA certificates (PEM) that the server is checked with; empty takes those of the system.")
    oidc_agent: str = Field("", description="Account of oidc-agent that the commands take tokens from; empty lets it choose by the issuer.")

    # ---- who may do what
    auth: Literal["token", "oidc"] = Field(
        "token", description="token: one embedded token for one user, made at the first start. oidc: tokens of OpenID providers."
    )
    token_file: Path | None = Field(None, description="File of the embedded token (mode 0600); empty takes `secrets/token` in the data folder.")
    oidc_issuers: Items = Field([], description="Issuers whose tokens are accepted (comma list of URLs, exact).")
    oidc_audiences: Items = Field([], description="Audiences of which a token must name one (comma list).")
    oidc_algorithms: Items = Field(
        ["RS256", "ES256"], description="Signature algorithms that are accepted (comma list); never `none` and never HMAC."
    )
    oidc_leeway: float = Field(60.0, ge=0, le=600, description="Seconds by which clocks may differ.")
    oidc_ca_file: Path | None = Field(None, description="CA certificates (PEM) that the issuers are checked with; empty takes those of the system.")
    oidc_groups_claims: Items = Field(["wlcg.groups", "groups"], description="Claims that may list a user's groups; the first that is there counts.")
    oidc_client_id: str = Field("mlaas-cli", description="Public client that the command line signs in with (device flow); told by /api/v1/service.")
    oidc_scope: str = Field(
        "openid profile offline_access wlcg.groups", description="Scopes that the command line asks for; told by /api/v1/service."
    )
    user_groups: Items = Field([], description="Groups that may use the service; empty lets every accepted token in.")
    admin_groups: Items = Field([], description="Groups whose members are administrators.")
    metrics_token_file: Path | None = Field(
        None, description="File with a token that may read /metrics; without it administrators may, and loopback."
    )

    # ---- uploads
    upload_limit: Size = Field(10 * 10**9, description="Largest upload (archive or model), as it is sent.")
    unpacked_limit: Size = Field(50 * 10**9, description="Most that one archive may hold unpacked.")
    unpacked_files: int = Field(20_000, ge=1, description="Most files in one archive.")
    free_disk: Size = Field(1 * 10**9, description="Uploads and jobs are refused when less than this is free on the disk of the data folder.")
    xrootd_proxy: str = Field(
        "",
        pattern=r"^(root://[^/\s@?#]+)?$",
        description="XRootD proxy that root:// files are read through, e.g. root://xrootd:1094; jobs then need no credential. Empty reads directly.",
    )
    local_data: Items = Field([], description="Folders of this machine that jobs may read files of events from, beside their workspace (comma list).")
    redirector: str = Field("", description="Prefix for bare /store/... names in place of params.redirector, e.g. that of the site's region.")

    # ---- jobs
    runner: Literal["process", "docker"] = Field("process", description="What runs a job: a sandboxed process of this machine, or a container.")
    worker_name: str = Field(
        "",
        pattern=r"^([a-z0-9][a-z0-9-]{0,62})?$",
        description="Name of this worker among several on one data folder: lower-case letters, digits, hyphens; a lone one needs none.",
    )
    total_cpus: float = Field(0, ge=0, description="CPUs for all jobs of a worker together; 0 takes those of its machine.")
    total_memory: Size = Field(0, description="Memory for all jobs of a worker together; empty takes 80 % of its machine's.")
    total_gpus: int = Field(0, ge=0, description="GPUs for all jobs of a worker together.")
    user_jobs: int = Field(2, ge=1, description="Most running jobs of one user.")
    user_cpus: float = Field(0, ge=0, description="Most CPUs of one user's running jobs; 0 sets no limit.")
    user_memory: Size = Field(0, description="Most memory of one user's running jobs; empty sets no limit.")
    user_disk: Size = Field(100 * 10**9, description="Most disk of one user: workspaces, jobs and models.")
    group_limits: dict[str, dict[str, Any]] = Field(
        {}, description='Limits of groups: JSON such as {"/cms": {"jobs": 8, "cpus": 16, "memory": "64GB", "disk": "1TB"}}; for all members together.'
    )
    queue_limit: int = Field(1000, ge=1, description="Most queued jobs of one user; more are refused with 429.")
    job_cpus: float = Field(1, gt=0, description="CPUs of a job that names none.")
    job_memory: Size = Field(4 * 10**9, description="Memory of a job that names none.")
    job_time_limit: float = Field(86_400, gt=0, description="Longest time that a job may run, in seconds; a job may ask for less.")
    job_processes: int = Field(512, ge=16, description="Most processes and threads of one job.")
    job_disk: Size = Field(20 * 10**9, description="Most that one job may write.")
    job_log_limit: Size = Field(64 * 10**6, description="Most of a job's output that is kept; the rest is cut off with a line that says so.")
    job_retries: int = Field(2, ge=0, description="Times that a job is started again when the infrastructure failed (never when the job did).")
    job_environment: dict[str, str] = Field(
        {},
        description="Variables that every job gets (JSON), for every user to read: no secrets; nothing of the service's own environment reaches it.",
    )
    job_uid_base: int = Field(
        200_000,
        ge=1000,
        description="As root each tenant's jobs run as a user id of their own, from this number on; isolated models use 512 below it.",
    )
    sandbox: Literal["auto", "off"] = Field(
        "auto", description="auto: a process job is cut off from secrets, other users and the database, or refused where that is not possible."
    )
    docker_url: str = Field("", description="Docker engine; empty takes DOCKER_HOST or the local socket.")
    docker_image: str = Field("mlaas-trainer:latest", description="Image of the jobs of the Docker runner.")
    docker_gpu_image: str = Field("", description="Image of the jobs that ask for a GPU; empty takes docker_image.")
    docker_network: str = Field("none", description="Network of the job containers: `none`, or one that reaches the XRootD proxy and nothing else.")
    job_retention: float = Field(30 * 86_400, gt=0, description="Seconds after which a finished job's files (log, figures) are removed.")
    upload_retention: float = Field(86_400, gt=0, description="Seconds after which an upload that was not finished is removed.")
    cache_limit: Size = Field(20 * 10**9, description="Most handled data kept per tenant; the least recently used go first.")

    # ---- inference
    inference_workers: int = Field(2, ge=1, le=256, description="Processes of the inference service.")
    inference_batch: int = Field(1024, ge=1, description="Most events that are predicted together.")
    inference_batching: bool = Field(True, description="Predict the rows of requests that arrive together in one go.")
    inference_queue: int = Field(4096, ge=1, description="Most requests that wait in one process; more are answered 503.")
    inference_queue_age: float = Field(1.0, gt=0, description="Longest wait of a request in seconds; it is then answered 503.")
    inference_timeout: float = Field(30.0, gt=0, description="Longest time of one prediction in seconds; a model that takes longer is stopped.")
    inference_body_limit: Size = Field(64 * 10**6, description="Largest body of a prediction request.")
    inference_model_limit: Size = Field(2 * 10**9, description="Largest model that users may upload.")
    inference_poll: float = Field(1.0, gt=0, description="Seconds between looks for new models in the repository.")
    inference_idle: float = Field(600.0, gt=0, description="Seconds after which an unused model is put out of memory.")
    inference_memory: Size = Field(4 * 10**9, description="Most memory of one isolated model process, and of all models inside one worker.")
    inference_processes: int = Field(16, ge=1, description="Most isolated model processes at a time; the one that was not used longest makes room.")

    @property
    def repository(self) -> Path:
        """The folder of the model repository."""
        return self.models if self.models is not None else self.data / "models"


def settings() -> Settings:
    """The settings as the environment gives them now. Raises UserError naming the variable that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        name = f"MLAAS_{str(item['loc'][0]).upper()}" if item["loc"] else "MLAAS_*"
        raise UserError(f"{name}: {item['msg'].removeprefix('Value error, ')} (given: {item.get('input')!r})") from None
    except SettingsError as error:  # its text names the field only in a sentence
        field = next((name for name in Settings.model_fields if f'"{name}"' in str(error)), "*")
        raise UserError(f"MLAAS_{field.upper()}: this is not JSON: {error.__cause__}") from None
