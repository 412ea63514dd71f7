"""What a confined job may reach: the system, Python, its own folders; and nothing else of this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import mlaas
from mlaas.jobs.runners.base import RunnerError, Task
from mlaas.places import Places
from mlaas.sandbox.landlock import Access
from mlaas.sandbox.python import SYSTEM, python_folders
from mlaas.settings import Settings

Rule = tuple[str, Access]

KERNEL = ("/proc", "/sys")
# not all of /etc: the service may keep secrets there, in files that its own user can read
ETC = (
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ld.so.preload", "alternatives", "os-release", "debian_version", "machine-id"),
    *("passwd", "group", "nsswitch.conf", "hosts", "host.conf", "hostname", "resolv.conf", "gai.conf", "services", "protocols", "networks"),
    *("ssl/certs", "ssl/openssl.cnf", "pki/tls", "pki/ca-trust", "ca-certificates", "ca-certificates.conf", "crypto-policies"),
    *("grid-security/certificates", "grid-security/vomsdir", "xrootd/client.conf", "xrootd/client.plugins.d", "vomses"),
    *("localtime", "timezone", "locale.alias", "mime.types", "magic", "fonts", "python3", "terminfo", "inputrc"),
    *("OpenCL", "vulkan", "nvidia"),
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
SHARED_MEMORY = "/dev/shm"  # noqa: S108  semaphores and arrays that processes of one job share
SECRETS = ("token_file", "service_key_file", "database_password_file", "tls_key", "metrics_token_file")


def search_path() -> str:
    """The PATH of a job: the programs beside this Python, then those of the system."""
    return os.pathsep.join([str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"])


def system_rules(gpus: Sequence[int]) -> list[Rule]:
    """Access that every job has."""
    rules: list[Rule] = [(path, "run") for path in (*SYSTEM, *map(str, python_folders()))]
    rules += [(path, "read") for path in KERNEL]
    rules += [(f"/etc/{name}", "read") for name in ETC]
    rules += [(path, "device") for path in DEVICES]
    rules.append((SHARED_MEMORY, "write"))
    # an editable installation is found by listing the folder that the package is in
    rules.append((str(Path(mlaas.__file__).parents[1]), "list"))
    return rules + _gpu_rules() if gpus else rules


def _gpu_rules() -> list[Rule]:
    rules: list[Rule] = [(str(path), "device") for path in sorted(Path("/dev").glob("nvidia*")) if not path.is_dir()]
    return [*rules, ("/run/nvidia-persistenced", "read")]


def task_rules(task: Task, gpus: Sequence[int]) -> list[Rule]:
    """Access of one task."""
    rules: list[Rule] = [(str(path), "read") for path in (task.folder / "input", *task.readable)]
    return [*system_rules(gpus), *rules, (str(task.folder / "work"), "write"), (str(task.cache), "write")]


def needed(task: Task) -> list[Path]:
    """What the job's user must be able to reach."""
    return [*python_folders(), task.folder / "input", task.folder / "work", task.cache, *task.readable]


def refuse_overlap(rules: Iterable[Rule], settings: Settings, places: Places) -> None:
    """Raise RunnerError when what jobs may read holds the service's own files: its secrets, its database, its folder of jobs."""
    own = [places.secrets, places.database, places.data / "jobs", places.run]
    own += [path.expanduser().absolute() for name in SECRETS if (path := getattr(settings, name)) is not None]
    for path, access in rules:
        folder = Path(path).resolve()
        held = next((file for file in own if folder in (file.resolve(), *file.resolve().parents)), None)
        if access != "list" and held is not None:
            raise RunnerError(f"jobs may read {folder}, and {held} lies in it: keep the service's own files elsewhere (MLAAS_DATA, MLAAS_*_FILE)")
