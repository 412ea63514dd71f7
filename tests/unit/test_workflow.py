"""The workflow document: what it refuses, with a sentence."""

from __future__ import annotations

import pytest

from mlaas.errors import WorkflowError
from mlaas.workflow import parse, read_json


def test_padding_fits_into_the_matrix():
    with pytest.raises(WorkflowError, match=r"params\.nan: .*must be NaN or a finite number of 32 bits"):
        parse({"files": ["a.root"], "labels": [1], "model": "model.py", "params": {"nan": 1e300}})


def test_json_that_is_nested_too_deep(tmp_path):
    path = tmp_path / "params.json"
    path.write_text('{"a":' + "[" * 200_000)
    with pytest.raises(WorkflowError, match=r"params: .* is nested too deep"):
        read_json(str(path), "params")
