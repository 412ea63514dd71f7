"""Libraries that cannot be loaded after TensorFlow: tried in a process of its own, which dies when the order is wrong."""

from __future__ import annotations

import subprocess
import sys

USE = """
from mlaas.models.order import before_tensorflow
before_tensorflow()
import tensorflow
from XRootD import client
assert client.URL("root://host//path").is_valid()
import torch
torch.optim.Adam([torch.zeros(1, requires_grad=True)]).step()
print("alive")
"""


def test_xrootd_and_torch_work_beside_tensorflow():
    done = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip() == "alive", (done.returncode, done.stderr[-500:])
