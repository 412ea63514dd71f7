"""`make demo`: the commands that a physicist types, one after another, on toy events; each is shown before it runs."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np

FLAGS = {"files": "files.txt", "labels": "labels.txt", "params": "params.json", "preproc": "preproc.json"}
BOLD, PLAIN = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
MARK = ".mlaas-demo"
SHOWN = 12  # lines of a command's output that are shown


class StepError(Exception):
    """A command of the demo failed; it has said why."""


def step(title: str, *command: str) -> float:
    """Show a command, run it, show the head of its output, and return the seconds it took. Raises StepError."""
    print(f"\n{BOLD}# {title}{PLAIN}\n$ mlaas {shlex.join(command)}", flush=True)
    began = time.monotonic()
    # the program's own interpreter and module: the demo must not depend on PATH
    done = subprocess.run([sys.executable, "-m", "mlaas.cli", *command], stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.splitlines()
    print("\n".join(lines[:SHOWN]))
    if len(lines) > SHOWN:
        print(f"... ({len(lines) - SHOWN} more lines)")
    if done.returncode:
        raise StepError(f"mlaas {command[0]} ended with exit code {done.returncode}")
    return time.monotonic() - began


def run(folder: Path, events: int) -> None:
    """Run the demo in a folder that it empties first (of a former demo only)."""
    began = time.monotonic()
    _clear(folder)
    os.environ.setdefault("MLAAS_CACHE", str(folder.absolute() / "cache"))
    flags = [f"--{name}={folder / file}" for name, file in FLAGS.items()]
    model = f"--model={folder / 'model.py'}"
    step("toy ttH signal and background events in ROOT files, and a workflow for them", "generate", str(folder), f"--events={events}")
    step("what is in a file", "inspect", str(folder / "signal.root"), "--tree=events")
    seconds = {"specs": step("specs: ranges, longest lists, numbers of events", "specs", *flags, f"--fout={folder / 'specs.json'}")}
    step("prepare: cut, select, keep as handled data (the specs left it behind already)", "prepare", *flags)
    bundle = folder / "ttH"
    seconds["fit"] = step("fit: train, evaluate, export, report", "fit", *flags, model, f"--fout={bundle}")
    new = folder / "new"
    step("raw events that the training has not seen", "generate", str(new), f"--events={events // 10}", "--seed=2", "--data-only")
    scores = folder / "scores"
    seconds["predict"] = step(
        "predict on raw events", "predict", str(bundle), str(new / "signal.root"), str(new / "background.root"), f"--output={scores}"
    )
    _score(folder, bundle, "counters", folder)
    layouts = {layout: _layout(folder, bundle, layout, events) for layout in ("rntuple", "vector")}
    _summary(folder, events, seconds, layouts, time.monotonic() - began)


def _clear(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).exists():
            raise StepError(f"{folder} is not the folder of a former demo; name a new one")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()


def _layout(folder: Path, bundle: Path, layout: str, events: int) -> str:
    """Say how far the scores of the same events in another layout are from those in the layout counters (they should be the same)."""
    other = folder / layout
    try:
        step(f"the same trees in the layout {layout}", "generate", str(other), f"--events={events}", f"--layout={layout}", "--data-only")
    except StepError:
        return "left out, for the reason above"
    _score(folder, bundle, layout, other)
    difference = _difference(folder / "layouts" / "counters", folder / "layouts" / layout)
    return "the same scores" if difference == 0 else f"scores that differ by at most {difference:.1g}"


def _score(folder: Path, bundle: Path, layout: str, place: Path) -> None:
    target = folder / "layouts" / layout
    step(f"scores of the layout {layout}, as Parquet", "predict", str(bundle), str(place / "signal.root"), f"--output={target}", "--format=parquet")


def _difference(one: Path, other: Path) -> float:
    """The largest difference between the scores in two folders of one Parquet file each."""
    first, second = (_columns(next(iter(sorted(place.glob("*.parquet"))))) for place in (one, other))
    if first.keys() != second.keys():
        raise StepError(f"the scores in {one} and {other} have different columns")
    return max(float(np.nanmax(np.abs(first[name] - second[name]))) for name in first)


def _columns(path: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return {name: table[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in table.column_names}


def _summary(folder: Path, events: int, seconds: dict[str, float], layouts: dict[str, str], total: float) -> None:
    bundle = folder / "ttH"
    test = json.loads((bundle / "metrics.json").read_text())["metrics"]["test"]
    epochs = [json.loads(line) for line in (bundle / "metrics.jsonl").read_text().splitlines()]
    rates = [line["events_per_s"] for line in epochs if line.get("kind") == "epoch"]
    print(f"\n{BOLD}# Done after {total:.0f} s{PLAIN}")
    print(
        f"  AUC        {test['auc']:.4f} +- {test['auc_error']:.4f} on {test['events']:,} events that were held out (accuracy {test['accuracy']:.3f})"
    )
    print(f"  training   {max(rates):,.0f} events/s in the fastest epoch; {seconds['fit']:.0f} s with evaluation, export and report")
    print(f"  data       {events:,} events, read and cut in {seconds['specs']:.0f} s")
    for layout, found in layouts.items():
        print(f"  {layout:<10} {found}")
    print(f"  scores     {folder / 'scores'}\n  bundle     {bundle}\n  report     {bundle / 'report' / 'index.html'}")


def main() -> int:
    """Run the demo from the command line; 1 when a step failed."""
    parser = ArgumentParser(prog="python -m mlaas.demo.run", description="Run the demo in a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--events", type=int, default=100_000)
    options = parser.parse_args()
    try:
        run(options.folder, options.events)
    except StepError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
