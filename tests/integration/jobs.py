"""Jobs as a user has them: files of events, a model.py, params.json; and the command line, called in this process or in one of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

from mlaas.cli import main

TREE = "boostedAk8/events"
IDENTIFIERS = ("run", "event", "luminosityBlock")

# ---- the files of the slides (CHEP 2023), as published but for the places marked there as misprints: `metrics=[...]`, `return`, `nevts`

SLIDES_MODEL = """\
from tensorflow import keras
from keras.models import Sequential
from keras.layers import Dense, Dropout

def model(idim):
    "Simple Keras model for testing purposes"
    ml_model = Sequential([Dense(128,
        activation='relu', input_shape=(idim,)),
        Dropout(0.5),
        Dense(64, activation='relu'),
        Dropout(0.5),
        Dense(1, activation='sigmoid')])
    ml_model.compile(optimizer=keras.optimizers.Adam(lr=1e-3),
        loss=keras.losses.BinaryCrossentropy(),
        metrics=[keras.metrics.AUC(name='auc')])
    return ml_model
"""
SLIDES_PARAMS = {
    "nevts": 3000,
    "shuffle": True,
    "chunk_size": 1000,
    "epochs": 3,
    "batch_size": 100,
    "identifier": "",
    "branch": TREE,
    "selected_branches": "",
    "exclude_branches": "",
    "hist": "pdfs",
    "redirector": "root://xrootd.ba.infn.it",
    "verbose": 1,
}
PUBLISHED_PREPROC = {
    "new_branch": {
        "log_partonE": {
            "def": "log(partonE)",
            "type": "jagged",
            "cut_1": ["log_partonE<6.31", "any"],
            "cut_2": ["log_partonE>5.85", "all"],
            "remove": "False",
            "keys_to_remove": ["partonE"],
        },
        "nJets_square": {"def": "nJets**2", "type": "flat", "cut": "1<=nJets_square<=16", "remove": "False", "keys_to_remove": ["nJets"]},
    },
    "flat_cut": {"nLeptons": {"cut": "0<=nLeptons<=2", "remove": "False"}},
    "jagged_cut": {"partonPt": {"cut": ["partonPt>200", "all"], "remove": "False"}},
}

MODELS = {
    "keras": SLIDES_MODEL,
    "torch": """\
import torch
def model(idim):
    return torch.nn.Sequential(torch.nn.Linear(idim, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
""",
    "mlp": """\
from sklearn.neural_network import MLPClassifier
def model(idim):
    return MLPClassifier((16,), learning_rate_init=0.01)
""",
    "hist": """\
from sklearn.ensemble import HistGradientBoostingClassifier
def model(idim):
    return HistGradientBoostingClassifier(max_iter=20, random_state=1)
""",
    "forest": """\
from sklearn.ensemble import RandomForestClassifier
def model(idim):
    return RandomForestClassifier(40, max_depth=6, random_state=1)
""",
    "knn": """\
from sklearn.neighbors import KNeighborsClassifier
def model(idim):
    return KNeighborsClassifier(31)
""",
    "logistic": """\
from sklearn.linear_model import LogisticRegression
def model(idim):
    return LogisticRegression(max_iter=500)
""",
    "xgboost": """\
import xgboost
def model(idim):
    return xgboost.XGBClassifier(n_estimators=25, max_depth=3, n_jobs=1)
""",
    "regressor": """\
from sklearn.ensemble import HistGradientBoostingRegressor
def model(idim):
    return HistGradientBoostingRegressor(max_iter=30, random_state=1)
""",
}


def toys(n: int, label: int = 1, seed: int = 1) -> dict[str, Any]:
    """Toy events with the branch names of the published examples.

    Flat: run, event, luminosityBlock, nJets, nLeptons (int32), met, mva (float32), genWeight (float64), kind (int32: 0, 1 or 2), recoil (float64).
    `parton`: lists with the fields E, Pt (float32, GeV) and id (int32). Only mva, met and partonPt tell the labels apart.
    """
    rng = np.random.default_rng([seed, label])
    counts = rng.poisson(2.0, n).clip(0, 6)
    total = int(counts.sum())
    mva = rng.normal(0.9 * label, 1.0, n)
    met = rng.exponential(50 + 15 * label, n)
    lists = {
        "E": rng.uniform(330, 700, total).astype(np.float32),
        "Pt": (190 + rng.exponential(60 + 20 * label, total)).astype(np.float32),
        "id": rng.integers(-5, 6, total).astype(np.int32),
    }
    return {
        "run": np.ones(n, np.int32),
        "event": np.arange(n, dtype=np.int64),
        "luminosityBlock": (np.arange(n) // 100).astype(np.int32),
        "nJets": rng.integers(0, 6, n).astype(np.int32),
        "nLeptons": rng.integers(0, 4, n).astype(np.int32),
        "met": met.astype(np.float32),
        "mva": mva.astype(np.float32),
        "genWeight": rng.uniform(0.5, 1.5, n),
        "kind": np.full(n, label, np.int32),
        "recoil": met * 0.5 + 10 * mva + rng.normal(0, 2, n),
        "parton": ak.unflatten(ak.zip(lists), counts),
    }


def write_root(path: Path, events: Mapping[str, Any], tree: str = TREE, basket: int = 500) -> Path:
    """Write toy events to a TTree with leaf-count arrays; fields of `parton` become partonE, partonPt, partonid with the counter nparton."""
    path.parent.mkdir(parents=True, exist_ok=True)
    types = {name: values.type.content if isinstance(values, ak.Array) else values.dtype for name, values in events.items()}
    n = len(next(iter(events.values())))
    with uproot.recreate(path) as file:
        target = file.mktree(tree, types, counter_name=lambda name: f"n{name}", field_name=lambda outer, inner: f"{outer}{inner}")
        for start in range(0, n, basket):
            target.extend({name: values[start : start + basket] for name, values in events.items()})
    return path


def plain(events: Mapping[str, Any]) -> dict[str, Any]:
    """The toys column by column as Python lists, under the names that the branches have in ROOT files (nparton too)."""
    lists = events["parton"]
    out = {name: values.tolist() for name, values in events.items() if name != "parton"}
    out["nparton"] = ak.num(lists).tolist()
    return out | {f"parton{field}": ak.to_list(lists[field]) for field in lists.fields}


def write_job(
    folder: Path,
    files: Sequence[Path | str],
    labels: Sequence[Any] | str,
    model: str,
    params: Mapping[str, Any] | None = None,
    preproc: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write a job's text files to a folder; returns the published flags that name them. model: a key of MODELS, or the text of a model.py."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "files.txt").write_text("# one path per line\n" + "".join(f"{path}\n" for path in files))
    (folder / "model.py").write_text(MODELS.get(model, model))
    (folder / "params.json").write_text(json.dumps({"branch": TREE, "batch_size": 100, "epochs": 3, **(params or {})}))
    flags = [f"--files={folder / 'files.txt'}", f"--model={folder / 'model.py'}", f"--params={folder / 'params.json'}"]
    if isinstance(labels, str):
        flags.append(f"--labels={labels}")
    else:
        (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
        flags.append(f"--labels={folder / 'labels.txt'}")
    if preproc is not None:
        (folder / "preproc.json").write_text(json.dumps(preproc))
        flags.append(f"--preproc={folder / 'preproc.json'}")
    return flags


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line on stderr that begins with the program's name."""
        lines = [line for line in self.err.splitlines() if line.startswith("mlaas: ")]
        assert len(lines) == 1, self.err
        return lines[0].removeprefix("mlaas: ")


def mlaas(*arguments: object) -> Done:
    """Call the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:  # flags that are wrong
            code = int(end.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


def done(*arguments: object) -> Done:
    """Call the command line in this process; it must succeed."""
    ended = mlaas(*arguments)
    assert ended.code == 0, ended.err
    return ended


def start(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    """Start the command line in a process of its own (its own group, so that signals reach it alone)."""
    command = [sys.executable, "-m", "mlaas.cli", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env={**os.environ, **environment}, start_new_session=True
    )


def listing(*folders: Path) -> set[str]:
    """Everything below folders, hidden files too."""
    return {str(path) for folder in folders for path in folder.rglob("*")}


__all__ = [
    "IDENTIFIERS",
    "MODELS",
    "PUBLISHED_PREPROC",
    "SLIDES_MODEL",
    "SLIDES_PARAMS",
    "TREE",
    "Done",
    "done",
    "listing",
    "mlaas",
    "plain",
    "start",
    "toys",
    "write_job",
    "write_root",
]
