"""Print the speed figures as ratios against uproot's own rate in the same run.

    python -m tests.bench [--events 100000] [--repeat 5] [--folder bench] [--quick] [--only pipeline|serving]

Baseline and case are run in turns and each is the median of its runs, so that a busy machine disturbs both alike. Everything but the lines
about workers runs on one core (the process is bound to it).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from mlaas.console import progress
from mlaas.demo.generate import write
from mlaas.errors import MissingExtraError
from tests.bench import cases, serving

Case = Callable[[], int]
CORES = sorted(os.sched_getaffinity(0))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("bench"))
    parser.add_argument("--quick", action="store_true", help="leave out the file ten times as long")
    parser.add_argument("--only", choices=("pipeline", "serving"), help="one of the two parts; the second is the inference service")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    if options.only != "serving":
        pipeline(options)
    if options.only != "pipeline":
        serving.main(["--folder", str(options.folder), *(["--overload", "10"] if options.quick else [])])


def pipeline(options: argparse.Namespace) -> None:
    """Reading, specs, chunks, memory."""
    table = Table(options.repeat)
    one_core(True)
    main_cases(table, options)
    formats(table, options)
    one_core(False)
    workers(table, options)
    memory(table, options)


class Table:
    """Measures pairs and prints a line for each."""

    def __init__(self, repeat: int) -> None:
        self._repeat = repeat
        print(f"{'case':<54}{'events/s':>12}{'against':>12}{'ratio':>8}  {'goal':<8}")

    def pair(self, title: str, case: Case, baseline: Case, goal: str = "", known: float | None = None) -> float:
        """Run both in turns (after one warm-up each); print and return the ratio of the medians."""
        case(), baseline()
        ours, theirs = [], []
        for _ in range(self._repeat):
            ours.append(rate(case))
            theirs.append(rate(baseline))
        a, b = statistics.median(ours), statistics.median(theirs)
        self.line(title, a, b, a / b, goal)
        return a / b

    @staticmethod
    def line(title: str, a: float, b: float, ratio: float, goal: str) -> None:
        print(f"{title:<54}{a:>12,.0f}{b:>12,.0f}{ratio:>8.2f}  {goal:<8}", flush=True)


def rate(case: Case) -> float:
    """Events per second of one run."""
    begin = time.perf_counter()
    events = case()
    return events / (time.perf_counter() - begin)


def one_core(bound: bool) -> None:
    """Bind this process to one core, or free it."""
    os.sched_setaffinity(0, CORES[-1:] if bound else CORES)


def data(options: argparse.Namespace, name: str, events: int, **how: str) -> Path:
    """A generated file, made once."""
    path = options.folder / f"{name}-{events}.root"
    if not path.exists():
        process = "background" if name.startswith("background") else "signal"
        write(path, events, process, progress=progress(), **how)
    return path


def main_cases(table: Table, options: argparse.Namespace) -> None:
    """Reading, specs and chunks of the zlib file."""
    path = data(options, "signal", options.events)
    cache = Path(tempfile.mkdtemp(prefix="cache-", dir=options.folder))

    def baseline() -> int:
        return cases.uproot_iterate(path)

    plain = cases.prepared([path], cache / "a")
    cut = cases.prepared([path], cache / "b", cut=True)
    table.pair("specs", lambda: cases.specs(path), baseline, ">= 0.9")
    table.pair("specs, read with uproot", lambda: cases.specs(path, direct=False), baseline)
    chunks = cases.Chunks(plain)
    dataset = chunks.dataset()
    table.pair("chunks: read, pad, normalise, mask, matrix", lambda: chunks.run(dataset), baseline, ">= 1.2")
    fallback = cases.Chunks(plain, direct=False)
    table.pair("chunks, read with uproot (fallback)", lambda: fallback.run(dataset_of(fallback)), baseline, ">= 0.65")
    cutting = cases.Chunks(cut)
    with_cut = cutting.dataset()
    table.pair("chunks with a jagged cut, against without", lambda: cutting.run(with_cut), lambda: chunks.run(dataset), ">= 0.9")
    first = cases.Chunks(plain, mask=False)
    second = cases.Chunks(plain, mask=False, stored=True)
    dataset_1, dataset_2 = first.dataset(), second.dataset()
    table.pair("second epoch (handled data), against first (ROOT)", lambda: second.run(dataset_2), lambda: first.run(dataset_1), ">= 3")

    def reading() -> int:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            return sum(file.used for file in cases.prepared([path], Path(folder)).files)

    table.pair("prepare: specs and handled data written", reading, baseline)
    shutil.rmtree(cache)


def dataset_of(chunks: cases.Chunks) -> cases.PreparedDataset:
    """The dataset of a case."""
    return chunks.dataset()


def formats(table: Table, options: argparse.Namespace) -> None:
    """The same events in other compressions and layouts, each against uproot on the same file."""
    for name, how in {
        "lz4": {"compression": "lz4"},
        "zstd": {"compression": "zstd"},
        "vector": {"layout": "vector"},
        "rntuple": {"layout": "rntuple"},
    }.items():
        try:
            path = data(options, name, options.events, **how)
        except MissingExtraError as error:
            print(f"{name}: not measured: {error}")
            continue
        cache = Path(tempfile.mkdtemp(prefix="cache-", dir=options.folder))
        chunks = cases.Chunks(cases.prepared([path], cache))
        dataset = chunks.dataset()
        table.pair(f"chunks, {name}", lambda c=chunks, d=dataset: c.run(d), lambda p=path: cases.uproot_iterate(p))
        shutil.rmtree(cache)


def workers(table: Table, options: argparse.Namespace) -> None:
    """Two workers against one, on two files and on one."""
    pair = [data(options, "signal", 2 * options.events), data(options, "background", 2 * options.events)]

    def reading(paths: list[Path], number: int) -> Case:
        def case() -> int:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                return sum(file.used for file in cases.prepared(paths, Path(folder), workers=number, handled=False).files)

        return case

    if len(CORES) < 2:
        print("two workers: not measured, this machine has one core")
        return
    table.pair("two workers against one: two files", reading(pair, 2), reading(pair, 1), ">= 1.7")
    table.pair("two workers against one: one file", reading(pair[:1], 2), reading(pair[:1], 1), ">= 1.7")


def memory(table: Table, options: argparse.Namespace) -> None:
    """Peak memory of chunks of 100,000 events, in a process of its own, for a file and one ten times as long."""
    sizes = [2 * options.events] + ([] if options.quick else [20 * options.events])
    print(f"\n{'peak memory, chunks of 100,000 events':<54}{'MB':>12}{'allowed':>12}")
    for events in sizes:
        path = data(options, "signal", events)
        for source in ("ROOT", "handled"):
            command = [sys.executable, "-m", "tests.bench.memory", str(path), str(options.folder), source]
            peak, matrix = (float(word) for word in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
            print(f"{f'{events:,} events from {source}':<54}{peak / 1e6:>12,.0f}{(2 * matrix + 300e6) / 1e6:>12,.0f}", flush=True)


if __name__ == "__main__":
    main()
