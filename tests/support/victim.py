"""A training in a process of its own, which kills itself (SIGKILL) when told to; for tests of checkpoints.

python -m tests.support.victim FRAMEWORK PROCEDURE FOLDER RECORDS        it dies a few batches after that many records of the metrics stream
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from mlaas.training import run
from mlaas.training.fit import train
from mlaas.training.usermodel import build
from mlaas.workflow import Params
from tests.support import ArrayDataset, blobs

ASKS = 4
MODELS = {
    "keras": """
import keras
def model(idim):
    layers = [keras.layers.Input((idim,)), keras.layers.Dense(16, activation="relu"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)]
    net = keras.Sequential([*layers, keras.layers.Dense(1, activation="sigmoid")])
    net.compile(optimizer=keras.optimizers.Adam(1e-2), loss="binary_crossentropy", metrics=["accuracy"])
    return net
""",
    "torch": """
import torch
def model(idim):
    net = torch.nn.Sequential(torch.nn.Linear(idim, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(16, 1))
    net.optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    return net
""",
    "sklearn": """
from sklearn.neural_network import MLPClassifier
def model(idim):
    return MLPClassifier((8,), learning_rate_init=0.02)
""",
    "xgboost": """
import xgboost
def model(idim):
    return xgboost.XGBClassifier(n_estimators=12, max_depth=3, n_jobs=1)
""",
}


def victim(framework: str, procedure: str, folder: Path, *, resume: bool = False, records: int = 0) -> dict[str, Any]:
    """Train; die at the fourth question whether to stop that comes after `records` records (0: never).

    Returns epochs, events trained on, the history's (kind, epoch, chunk, loss, val_loss), the final losses, and the sum of the test scores.
    """
    left = [records, ASKS]

    def on_record(record: dict[str, Any]) -> None:
        left[0] -= record["kind"] != "interval"

    def stop() -> bool:
        if records and left[0] <= 0:
            left[1] -= 1
            if left[1] <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return False

    path = folder.with_suffix(".py")
    path.write_text(MODELS[framework])
    params = Params.model_validate({"epochs": 4, "batch_size": 100, "procedure": procedure, "shuffle": True})
    dataset = ArrayDataset(*blobs(3000), chunk_size=500, shuffle=True)
    result = train(build(path, dataset.width, params), dataset, params, folder, resume=resume, stop=stop, on_record=on_record)
    names = ("kind", "epoch", "chunk", "loss", "val_loss")
    history = [[record.get(name) for name in names] for record in result.history]
    losses = {split: figures["loss"] for split, figures in result.metrics.items()}
    return {
        "epochs": result.epochs,
        "trained": result.trained,
        "history": history,
        "losses": losses,
        "sum": float(result.samples["test"].scores.sum()),
    }


if __name__ == "__main__":
    run.CHECKPOINT_SECONDS = 0.0
    victim(sys.argv[1], sys.argv[2], Path(sys.argv[3]), records=int(sys.argv[4]))
