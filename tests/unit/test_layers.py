"""The parts of the package know each other in one direction only, and nothing heavy is loaded before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "mlaas"
BASE = {"__init__", "errors", "sizes", "settings", "console", "signals", "places", "beneath", "unpacking", "bearer", "sandbox"}
# each part, and what it may know besides itself and the base
LAYERS: dict[str, set[str]] = {
    **{part: set() for part in BASE},
    "data": set(),
    "workflow": {"data"},
    "models": {"data", "workflow"},
    "report": {"data"},
    "training": {"data", "workflow", "models"},
    "prepare": {"data", "workflow"},
    "pipeline": {"data", "workflow", "models", "report", "training", "prepare"},
    "demo": {"data", "models", "client"},
    # the service: `inference` knows neither training nor server; only `store` knows the database; only `jobs` starts processes of users
    "auth": set(),
    "web": {"auth"},
    "store": set(),
    "workspaces": {"store"},
    "jobs": {"data", "workflow", "models", "store", "workspaces", "web"},
    "inference": {"auth", "web", "data", "models"},
    "server": {"auth", "web", "store", "workspaces", "jobs", "data", "workflow", "models"},
    "client": set(),
    "tosca": set(),
    "service": {"auth", "web", "store", "jobs", "inference", "server"},
    "deploy": set(),
    "commands": {"data", "workflow", "pipeline", "demo"},
    "commands_service": {
        "service",
        "deploy",
        "client",
        "auth",
        "web",
        "store",
        "jobs",
        "inference",
        "server",
        "workflow",
        "models",
        "commands",
        "data",
    },
    "cli": {"commands", "commands_service", "demo", "tosca"},
}
WORDS = {"mlaas.jobs.states"}  # only names of things, which every part may use
EXTRAS = {
    "tensorflow",
    "keras",
    "tf2onnx",
    "torch",
    "onnxscript",
    "safetensors",
    "fastai",
    "xgboost",
    "onnxmltools",
    "fsspec_xrootd",
    "XRootD",
    "s3fs",
    "ROOT",
    "paramiko",
    "ansible_runner",
}
SERVICE_EXTRAS = {
    "fastapi",
    "starlette",
    "uvicorn",
    "orjson",
    "python_multipart",
    "sse_starlette",
    "sqlalchemy",
    "alembic",
    "psycopg",
    "jwt",
    "prometheus_client",
    "docker",
    "google",
    "grpc",
    "netron",
}
DEPLOY_EXTRAS = {"yaml", "toscaparser", "paramiko", "ansible_runner"}
DEPLOY = {"tosca", "deploy"}  # parts whose modules need those extras; the command line loads them late
SERVICE = {"auth", "web", "store", "workspaces", "jobs", "inference", "server", "service"}  # parts that are there with the extra only
SLOW = {"httpx", "numpy", "pyarrow", "awkward", "uproot", "numba", "sklearn", "matplotlib", "hist", "mplhep", "onnx", "onnxruntime", "skops"}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if PACKAGE / "demo" / "files" not in path.parents)


def part_of(path: Path) -> str:
    """The top part of the package that a file belongs to; pipeline_x.py beside pipeline.py belongs to pipeline."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "pipeline" if first.startswith("pipeline") else first


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module named by an import, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield node.module or ""
            if node.module == "mlaas":
                yield from (f"mlaas.{alias.name}" for alias in node.names)


def early(body: list[ast.stmt]) -> Iterator[str]:
    """Every module imported when the file is: not in functions, not for type checking only."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(node)
        for block in ("body", "orelse", "handlers", "finalbody"):
            yield from early(getattr(node, block, []))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    part = part_of(path)
    assert part in LAYERS, f"{part} is new: say in LAYERS what it may know"
    allowed = LAYERS[part] | BASE | {part}
    for name in set(imports(ast.parse(path.read_text()))) - WORDS:
        if name.startswith("mlaas.") and (PACKAGE / name.split(".")[1]).with_suffix(".py").exists() | (PACKAGE / name.split(".")[1]).is_dir():
            known = part_of(PACKAGE / name.split(".")[1])
            assert known in allowed, f"{path.name} imports {name}, but {part} may know {sorted(allowed)} only"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_extras_are_imported_late(path):
    own = SERVICE_EXTRAS if part_of(path) in SERVICE else DEPLOY_EXTRAS if part_of(path) in DEPLOY else set()
    heavy = {name.split(".")[0] for name in early(ast.parse(path.read_text()).body)} & (EXTRAS | SERVICE_EXTRAS | DEPLOY_EXTRAS) - own
    assert not heavy, f"{path.name} imports {heavy} at its top: an installation without that extra would not work"


def test_the_check_sees_a_wrong_import():
    tree = ast.parse("def f():\n    from mlaas import cli\ntry:\n    import torch.nn\nexcept ImportError:\n    pass")
    assert "mlaas.cli" in set(imports(tree))
    assert list(early(tree.body)) == ["torch.nn"]


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_command_starts_fast():
    assert not loaded_by("mlaas.cli") & (EXTRAS | SERVICE_EXTRAS | DEPLOY_EXTRAS | SLOW)


def test_the_pipeline_loads_no_framework():
    assert not loaded_by("mlaas.pipeline") & (EXTRAS | SERVICE_EXTRAS | {"matplotlib", "onnxruntime"})
