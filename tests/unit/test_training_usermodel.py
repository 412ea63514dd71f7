"""model.py: every way in which it can be wrong is one sentence with its place."""

from __future__ import annotations

import pytest

from mlaas.errors import MissingExtraError, ModelError, WorkflowError
from mlaas.training import legacy, resources
from mlaas.training.adapter import Problem, adapt
from mlaas.training.resources import available_memory, memory_limit, parse_size
from mlaas.training.usermodel import build, load
from mlaas.workflow import Params

PROBLEM = Problem("classification", ("b", "s"), 3)


def write(tmp_path, text):
    path = tmp_path / "model.py"
    path.write_text(text)
    return path


BAD = {
    "syntax": ("import os\ndef model(idim):\n    return (\n", r"model\.py, line 3: not Python: '\(' was never closed"),
    "null bytes": ("def model(idim):\n    return 1\0\n", r"model\.py.*not.* Python"),
    "raises": ("x = 1\ny = x / 0\n", r"model\.py, line 2: it raised ZeroDivisionError: division by zero"),
    "exits": ("import sys\nsys.exit(3)\n", r"model\.py, line 2: it raised SystemExit: 3"),
    "no function": ("def modle(idim):\n    return 1\n", r"does not define the function model\(idim\) \(did you mean 'modle'\?\)"),
    "empty": ("", r"does not define the function model\(idim\)$"),
    "a value": ("model = 3\n", r"`model` is of type int, not a function"),
    "a model": ("class Net:\n    def fit(self): ...\n    def __call__(self, x): ...\nmodel = Net()\n", r"`model` is of type Net, not a function"),
    "no argument": ("\ndef model():\n    return 1\n", r"line 2: model\(\) must take exactly one argument"),
    "two arguments": ("def model(a, b):\n    return 1\n", r"line 1: model\(a, b\) must take exactly one argument"),
    "missing module": ("\nimport surely_not_there\n", r"model\.py, line 2: imports surely_not_there, which is not installed here"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_sentence(tmp_path, name):
    text, sentence = BAD[name]
    with pytest.raises(ModelError, match=sentence) as caught:
        load(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_binary_one(tmp_path):
    with pytest.raises(ModelError, match=r"nowhere\.py cannot be read: No such file"):
        load(tmp_path / "nowhere.py")
    path = tmp_path / "model.py"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ModelError, match="not"):
        load(path)


def test_a_function_that_fails_says_where(tmp_path):
    path = write(tmp_path, "def helper(n):\n    return [][n]\n\ndef model(idim):\n    return helper(idim)\n")
    with pytest.raises(ModelError, match=r"model\.py, line 2: model raised IndexError"):
        build(path, 3, Params())
    path = write(tmp_path, "def model(idim):\n    made = 1\n")
    with pytest.raises(ModelError, match=r"the function model \(line 1\) returned nothing"):
        build(path, 3, Params())


def test_a_framework_that_is_not_there_names_the_extra(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(MissingExtraError, match=r"xgboost is not installed: pip install 'mlaas\[xgboost\]'"):
        load(write(tmp_path, "import xgboost\n"))


def test_files_beside_it_can_be_imported_and_the_path_is_as_before(tmp_path):
    import sys

    (tmp_path / "parts_of_mine.py").write_text("WIDTH = 7\n")
    text = "from dataclasses import dataclass\nfrom parts_of_mine import WIDTH\n"
    text += "@dataclass\nclass Net:\n    n: int\ndef model(idim):\n    return Net(idim + WIDTH)\n"
    path = write(tmp_path, text)
    before = list(sys.path)
    assert build(path, 3, Params()).n == 10
    assert sys.path == before


def test_the_same_seed_makes_the_same_model(tmp_path):
    path = write(tmp_path, "import random, numpy as np\ndef model(idim):\n    return [random.random(), np.random.rand()]\n")
    first = build(path, 3, Params(seed=2**40 + 5))
    assert build(path, 3, Params(seed=2**40 + 5)) == first
    assert build(path, 3, Params(seed=6)) != first


@pytest.mark.parametrize("what", [3, "model", [1, 2], {"a": 1}, object()])
def test_what_is_no_model_is_refused(what):
    with pytest.raises(ModelError, match=r"returned an? \w+; return a compiled Keras model"):
        adapt(what, PROBLEM, Params())


def test_nothing_and_a_class_are_refused():
    from sklearn.tree import DecisionTreeClassifier

    with pytest.raises(ModelError, match="returned nothing"):
        adapt(None, PROBLEM, Params())
    with pytest.raises(ModelError, match=r"returned the class DecisionTreeClassifier: return an instance"):
        adapt(DecisionTreeClassifier, PROBLEM, Params())


def test_the_shims_leave_nothing_behind():
    import sys

    with legacy.shims({"MLaaS4HEP"}):
        assert "MLaaS4HEP.jarray.pytorch" in sys.modules
    assert not [name for name in sys.modules if name.startswith("MLaaS4HEP")]


def test_sizes():
    assert parse_size("4GB") == 4 * 10**9
    assert parse_size(" 1.5 GiB ") == 3 * 2**29
    assert parse_size("3g") == 3 * 10**9
    assert parse_size("100") == 100
    for wrong in ("", "many", "-1GB", "0", "4 QB"):
        with pytest.raises(WorkflowError, match=r'params\.memory_limit: .* is not a size; write e\.g\. "4GB"'):
            parse_size(wrong)


def test_memory_limit_comes_from_the_workflow_the_site_or_the_machine(monkeypatch):
    assert memory_limit(Params(memory_limit="1MB")) == 10**6
    monkeypatch.setenv("MLAAS_MEMORY_LIMIT", "2MB")
    assert memory_limit(Params(memory_limit="1MB")) == 10**6
    assert memory_limit(Params()) == 2 * 10**6
    monkeypatch.delenv("MLAAS_MEMORY_LIMIT")
    assert memory_limit(Params()) == pytest.approx(available_memory() / 2, rel=0.2)


def test_a_page_cache_does_not_count_as_used_memory(tmp_path, monkeypatch):
    """Reading the files fills the container's page cache, which the kernel gives back: it must not shrink the limit of the training after it."""
    monkeypatch.setattr(resources, "CONTROL_GROUP", tmp_path)
    (tmp_path / "memory.max").write_text("2000000\n")
    (tmp_path / "memory.current").write_text("1900000\n")
    assert available_memory() == 100_000
    (tmp_path / "memory.stat").write_text("anon 300000\nfile 1600000\ninactive_file 1200000\nactive_file 400000\n")
    assert available_memory() == 1_300_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() > 2_000_000
