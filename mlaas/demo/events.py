"""Toy events in the shape of a ttH analysis: what the demo, the tests and the benchmark train on.

Tree of 77 branches: 3 identifiers (runNo, evtNo, lumi), 22 flat (6 counters and 16 others) and 52 jagged (lists of 6 collections), as in the
dataset of the MLaaS4HEP papers. Energies, momenta and masses are in GeV, angles in radians. The distributions imitate the main differences
between ttH (H -> bb) and its backgrounds (more and harder jets, more b tags, a bb mass peak at 125 GeV); no generator of physics is behind them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas.data.columns import Array, Column, Columns, Jagged, concatenate
from mlaas.demo import PROCESSES, Process, Profile

IDENTIFIERS = ("runNo", "evtNo", "lumi")
TARGETS = ("process", "ptH")
BLOCK = 10_000  # events drawn from one random stream: the events do not depend on how they are written


@dataclass(frozen=True)
class Collection:
    """A collection of objects: mean multiplicity in each profile, most objects in the profile "seed", and the fields with their types."""

    mean: dict[Profile, float]
    cap: int
    fields: dict[str, type[np.generic]]
    least: int = 0


def _fields(floats: str, integers: str = "", booleans: str = "") -> dict[str, type[np.generic]]:
    typed = ((floats, np.float32), (integers, np.int32), (booleans, np.bool_))
    return {name: kind for names, kind in typed for name in names.split()}


COLLECTIONS: dict[str, Collection] = {
    "jet": Collection(
        {"brief": 6.0, "seed": 2.6}, 8, _fields("pt eta phi mass energy btag qgl chf nhf phf elf muf", integers="flavor", booleans="isBtag"), least=1
    ),
    "ak8": Collection(
        {"brief": 2.0, "seed": 1.2},
        4,
        _fields("pt eta phi mass massSD tau1 tau2 tau3 btagSub0 btagSub1 energy chf", integers="nSub", booleans="isHbb"),
    ),
    "lep": Collection({"brief": 2.0, "seed": 0.8}, 4, _fields("pt eta phi energy iso", integers="id charge", booleans="isTight")),
    "parton": Collection({"brief": 4.0, "seed": 2.4}, 7, _fields("pt eta phi energy matchDR", integers="id matchIdx")),
    "genjet": Collection({"brief": 5.0, "seed": 2.2}, 7, _fields("pt eta phi mass")),
    "trig": Collection({"brief": 7.0, "seed": 2.6}, 8, _fields("pt eta phi", integers="type", booleans="bit")),
}
FLAT = _fields("ht met metSig metPhi mva prob_ttH rho dRbb mbb mTop sphericity aplanarity genWeight", integers="nBJets nvtx", booleans="hasHbb")


@dataclass(frozen=True)
class Shape:
    """What differs between the processes; `counts` scales the multiplicities, `pt` is the mean excess over 30 GeV."""

    code: int
    counts: float
    pt: float
    btag: float
    mbb: tuple[float, float]
    hbb: float
    tag: float
    topness: float


SHAPES: dict[str, Shape] = {
    "background": Shape(code=0, counts=1.0, pt=70.0, btag=1.20, mbb=(110.0, 40.0), hbb=0.30, tag=0.25, topness=2.0),
    "signal": Shape(code=1, counts=1.15, pt=80.0, btag=1.45, mbb=(125.0, 22.0), hbb=0.48, tag=0.31, topness=2.4),
    "ttz": Shape(code=2, counts=1.05, pt=74.0, btag=1.3, mbb=(91.0, 20.0), hbb=0.38, tag=0.28, topness=2.2),
}


def blocks(n: int, process: Process = "signal", *, profile: Profile = "brief", seed: int = 1, targets: bool = False) -> Iterator[Columns]:
    """Draw `n` events in blocks of at most 10,000; the same arguments give the same events.

    process: "background" (tt), "signal" (ttH), "ttz", or "mixed" (the three in turn at random).
    profile: "brief" has about 31 list entries per event, "seed" about 13 (as the log of the papers' dataset).
    targets: add the flat branches `process` (int32: 0 background, 1 signal, 2 ttz) and `ptH` (float32, GeV: transverse momentum of the
        bb system, correlated with the jets), for trainings with several classes and regressions.
    """
    for index, start in enumerate(range(0, n, BLOCK)):
        rng = np.random.default_rng([seed, PROCESSES.index(process), index])
        yield _block(rng, start, min(BLOCK, n - start), process, profile, targets)


def draw(n: int, process: Process = "signal", *, profile: Profile = "brief", seed: int = 1, targets: bool = False) -> Columns:
    """The events of `blocks`, all in memory."""
    return concatenate(list(blocks(n, process, profile=profile, seed=seed, targets=targets)))


def _block(rng: np.random.Generator, start: int, n: int, process: Process, profile: Profile, targets: bool) -> Columns:
    """Always draw a whole block and cut it, so that the first events do not depend on how many are asked for."""
    code = rng.integers(0, 3, BLOCK) if process == "mixed" else np.full(BLOCK, SHAPES[process].code)
    data: dict[str, Column] = {
        "runNo": np.ones(BLOCK, np.int32),
        "evtNo": np.arange(start, start + BLOCK, dtype=np.int32),
        "lumi": ((start + np.arange(BLOCK)) // 500).astype(np.int32),
    }
    lists: dict[str, Column] = {}
    for name, collection in COLLECTIONS.items():
        counts = _counts(rng, collection, code, profile)
        data[f"n{name}"] = counts.astype(np.int32)
        lists |= _objects(rng, name, collection, code, counts)
    data |= _flat(rng, code, lists) | lists
    if targets:
        noise = rng.normal(0, 15, BLOCK)
        data |= {
            "process": code.astype(np.int32),
            "ptH": np.abs(0.35 * np.asarray(data["ht"]) + 0.4 * np.asarray(data["mbb"]) + noise).astype(np.float32),
        }
    return Columns(BLOCK, data).slice(0, n)


def _per_event(name: str, code: Array) -> Array:
    """The value of a field of `Shape` for each event, by its process."""
    table: Array = np.array([getattr(shape, name) for shape in SHAPES.values()])[code]
    return table


def _counts(rng: np.random.Generator, collection: Collection, code: Array, profile: Profile) -> npt.NDArray[np.int64]:
    counts = np.maximum(rng.poisson(collection.mean[profile] * _per_event("counts", code)), collection.least)
    return np.minimum(counts, collection.cap) if profile == "seed" else counts


def _objects(rng: np.random.Generator, name: str, collection: Collection, code: Array, counts: npt.NDArray[np.int64]) -> dict[str, Jagged]:
    """The lists of one collection, hardest object first; they share one offsets array."""
    owner = np.repeat(code, counts)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    pt = 30 + rng.exponential(_per_event("pt", owner))
    pt = pt[np.lexsort((-pt, np.repeat(np.arange(len(counts)), counts)))]
    eta = np.clip(rng.normal(0, 1.3, len(owner)), -2.4, 2.4)
    known = {"pt": pt, "eta": eta, "energy": pt * np.cosh(eta)}
    return {
        f"{name}_{field}": Jagged((known[field] if field in known else _values(rng, field, kind, owner)).astype(kind), offsets)
        for field, kind in collection.fields.items()
    }


def _values(rng: np.random.Generator, field: str, kind: type[np.generic], owner: Array) -> Array:
    n = len(owner)
    if kind is np.bool_:
        return rng.random(n) < _per_event("tag", owner)
    if kind is np.int32:
        return rng.integers(-5, 6, n)
    if field in {"mass", "massSD"}:
        return np.abs(rng.normal(90, 25, n))
    if field == "phi":
        return rng.uniform(-np.pi, np.pi, n)
    if field.startswith("btag"):
        return rng.beta(_per_event("btag", owner), 1.5)
    return rng.beta(1.5, 3.0, n)


def _flat(rng: np.random.Generator, code: Array, lists: dict[str, Any]) -> dict[str, Column]:
    n = len(code)
    centre, width = _per_event("mbb", code).T
    known = {
        "ht": _sums(lists["jet_pt"]),
        "nBJets": _sums(lists["jet_isBtag"]),
        "nvtx": rng.poisson(35, n),
        "hasHbb": rng.random(n) < _per_event("hbb", code),
        "mbb": np.abs(rng.normal(centre, width)),
        "met": rng.exponential(50, n),
        "genWeight": np.ones(n),  # a constant branch on purpose
        "metPhi": rng.uniform(-np.pi, np.pi, n),
        "mTop": rng.normal(172, 25, n),
    }
    topness = _per_event("topness", code)
    return {name: (known[name] if name in known else rng.beta(topness, 3.0)).astype(kind) for name, kind in FLAT.items()}


def _sums(lists: Jagged) -> Array:
    totals = np.concatenate([[0.0], np.cumsum(lists.content, dtype=np.float64)])
    sums: Array = totals[lists.offsets[1:]] - totals[lists.offsets[:-1]]
    return sums
