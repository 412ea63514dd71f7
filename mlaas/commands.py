"""What each subcommand does: build the workflow, call the pipeline, print the result on stdout."""

from __future__ import annotations

import json
import platform
import re
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlaas import __version__
from mlaas.console import Progress, progress
from mlaas.errors import UserError

if TYPE_CHECKING:
    from mlaas.workflow import Workflow

FRAMEWORKS = ("uproot", "awkward", "scikit-learn", "tensorflow", "keras", "torch", "xgboost", "onnx", "onnxruntime", "fsspec-xrootd", "s3fs")


def workflow(options: Namespace) -> None:
    """Prepare and fit."""
    document = _document(options)
    from mlaas import pipeline

    _print_run(pipeline.run(document, out=_out(options), resume=options.resume, progress=_progress(options)))


def fit(options: Namespace) -> None:
    """Fit on handled data."""
    document = _document(options)
    from mlaas import pipeline

    _print_run(pipeline.fit(document, out=_out(options), resume=options.resume, progress=_progress(options)))


def prepare(options: Namespace) -> None:
    """Write handled data."""
    document = _document(options)
    from mlaas import pipeline

    print(pipeline.prepare(document, progress=_progress(options)).summary())


def specs(options: Namespace) -> None:
    """Compute specs; print them, or write them to a file."""
    document = _document(options)
    from mlaas import pipeline

    found = pipeline.compute_specs(document, progress=_progress(options))
    if options.fout:
        _write_text(Path(options.fout), json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1) if options.json else "\n".join(specs_table(found)))


def inspect(options: Namespace) -> None:
    """Show one file, tree by tree."""
    from mlaas.data.inspect import inspect_file

    found = inspect_file(
        options.file,
        tree=options.tree,
        dtype=options.dtype,
        ranges=not options.no_ranges,
        redirector=options.redirector,
        progress=_progress(options),
    )
    documents = [inspection.document() for inspection in found]
    print(json.dumps(documents, indent=1) if options.json else "\n\n".join("\n".join(inspection_table(document)) for document in documents))


def predict(options: Namespace) -> None:
    """Write scores of raw events."""
    from mlaas import pipeline

    written = pipeline.predict(
        Path(options.bundle),
        options.files,
        output=Path(options.output),
        format=options.format,
        engine=options.engine,
        trust=options.trust,
        tree=options.tree,
        redirector=options.redirector,
        progress=_progress(options),
    )
    for path in written:
        print(path)


def replay(options: Namespace) -> None:
    """Train again from a bundle."""
    from mlaas import pipeline

    bundle = Path(options.bundle)
    out = Path(options.fout) if options.fout else bundle.with_name(f"{bundle.name}-replay")
    print(pipeline.replay(bundle, out=out, trust=options.trust, progress=_progress(options)).summary())


def generate(options: Namespace) -> None:
    """Write toy events and a workflow."""
    from mlaas.demo.generate import write, write_pair, write_workflow

    folder = Path(options.folder)
    chosen = {name: getattr(options, name) for name in ("profile", "seed", "layout", "compression", "basket")}
    if options.mixed:
        print(write(folder / "mixed.root", options.events, "mixed", targets=True, progress=_progress(options), **chosen))
        return
    for path in write_pair(folder, options.events, progress=_progress(options), **chosen):
        print(path)
    if options.data_only:
        return
    for path in write_workflow(folder):
        print(path)
    flags = " ".join(f"--{name}={folder / file}" for name, file in _WORKFLOW_FLAGS.items())
    print(f"\nNow train on them:\n  mlaas workflow {flags} --fout={folder / 'ttH'}")


_WORKFLOW_FLAGS = {"files": "files.txt", "labels": "labels.txt", "model": "model.py", "params": "params.json", "preproc": "preproc.json"}


def version(options: Namespace) -> None:
    """Print versions and settings."""
    from mlaas.settings import settings

    document: dict[str, Any] = {
        "mlaas": __version__,
        "python": platform.python_version(),
        "packages": {name: _installed(name) for name in FRAMEWORKS},
        "settings": settings().model_dump(mode="json"),
    }
    if options.json:
        print(json.dumps(document, indent=1))
        return
    print(f"mlaas {__version__}, Python {platform.python_version()}")
    print("\n".join(_table((name, found or "not installed") for name, found in document["packages"].items())))
    print("\n".join(_table((f"MLAAS_{name.upper()}", str(value)) for name, value in document["settings"].items())))


def specs_table(found: Mapping[str, Any]) -> list[str]:
    """The specs in the published form as lines of text."""
    rows = [("branch", "kind", "longest", "min", "max")]
    for name in [*sorted(found["fkeys"]), *sorted(found["jkeys"])]:
        kind, longest = ("jagged", str(found["jdim"][name])) if name in found["jkeys"] else ("flat", "")
        rows.append((name, kind, longest, _number(found["minv"][name]), _number(found["maxv"][name])))
    return [*_table(rows), "", *_table((file, f"{events:,} events") for file, events in found["events"].items())]


def inspection_table(found: Mapping[str, Any]) -> list[str]:
    """An inspection as lines of text."""
    where = f"{found['path']}{': ' + found['tree'] if found['tree'] else ''}"
    lines = [f"{where}: {found['events']:,} events, {len(found['branches'])} branches that can be features"]
    figures = ("longest", "min", "max", "nan", "infinite")
    rows = [("branch", "type", "kind", *figures)]
    for branch in found["branches"]:
        rows.append((branch["name"], branch["type"], branch["kind"], *(_number(branch.get(figure)) for figure in figures)))
    lines += _table(rows)
    if found["excluded"]:
        lines += ["", "not usable as features:", *_table(found["excluded"].items())]
    return lines


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _document(options: Namespace) -> Workflow:
    from mlaas.workflow import from_flags

    given = vars(options)
    flags = {name: given[name] for name in ("labels", "model", "params", "preproc", "specs", "dtype", "procedure") if given.get(name) is not None}
    name = given.get("name") or _name_of(given.get("fout"))
    if flags.get("params") is None and options.command != "specs":
        print("mlaas: no --params: the defaults hold", file=sys.stderr)
    return from_flags(files=options.files, name=name, **flags)


def _name_of(fout: str | None) -> str | None:
    """The last part of --fout names the model if it can be a name."""
    name = Path(fout).name if fout else ""
    return name if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name) else None


def _out(options: Namespace) -> Path:
    return Path(options.fout or options.name or "model")


def _progress(options: Namespace) -> Progress:
    from mlaas.settings import settings

    return progress(settings().progress and not options.quiet)


def _print_run(result: Any) -> None:
    metrics = "  ".join(f"{name} {_number(value)}" for name, value in result.metrics.items() if isinstance(value, int | float))
    print(f"metrics  {metrics}\nbundle   {result.bundle}\nreport   {result.report}")


def _write_text(path: Path, text: str) -> None:
    """Write aside, then rename."""
    aside = path.with_name(f".{path.name}.part")
    try:
        aside.write_text(text)
        aside.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)


def _installed(package: str) -> str | None:
    try:
        return installed(package)
    except PackageNotFoundError:
        return None
