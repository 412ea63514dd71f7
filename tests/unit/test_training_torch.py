"""PyTorch modules and fastai Learners, trained for real."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from mlaas.errors import Cancelled, ModelError, ResourceError, WorkflowError
from mlaas.training import torchlosses
from mlaas.training.adapter import Problem, adapt
from mlaas.training.fit import train
from mlaas.training.metrics import auc
from mlaas.training.usermodel import build
from mlaas.workflow import Params
from tests.support import ArrayDataset, blobs, line

BINARY = ArrayDataset(*blobs(3000))
MULTI = ArrayDataset(*blobs(3000, classes=3), classes=["a", "b", "c"])
REGRESSION = ArrayDataset(*line(3000), task="regression")
PARAMS = Params(epochs=6, batch_size=64, learning_rate=1e-2)
TWO = Problem("classification", ("b", "s"), 6)
THREE = Problem("classification", ("a", "b", "c"), 6)


def net(units=1, *ends, width=6):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, units), *ends)


class Functional(nn.Module):
    """Ends with a function, not with a module."""

    def __init__(self, units=1, end=torch.sigmoid) -> None:
        super().__init__()
        self.inner, self.end = net(units), end

    def forward(self, x):
        return self.end(self.inner(x))


def flat():
    return nn.Sequential(net(1), nn.Flatten(0))


BINARY_MODELS = {
    "logit": (lambda: net(), "logit", "BCEWithLogitsLoss"),
    "sigmoid": (lambda: net(1, nn.Sigmoid()), "probability", "BCELoss"),
    "sigmoid as a function": (lambda: Functional(), "probability", "BCELoss"),
    "logits": (lambda: net(2), "logits", "CrossEntropyLoss"),
    "softmax": (lambda: net(2, nn.Softmax(dim=1)), "classes", "LogNLLLoss"),
    "log softmax with its loss": (lambda: (net(2, nn.LogSoftmax(dim=1)), nn.NLLLoss()), "logits", "NLLLoss"),
    "flat output": (flat, "logit", "BCEWithLogitsLoss"),
    "with loss and optimiser": (lambda: with_optimizer(net(), nn.SoftMarginLoss()), "logit", "SoftMarginLoss"),
    "one-hot": (lambda: (net(2, nn.Sigmoid()), nn.BCELoss()), "classes", "BCELoss"),
    "mean squared error": (lambda: {"model": net(1, nn.Sigmoid()), "loss": nn.MSELoss()}, "probability", "MSELoss"),
    "a name": (lambda: (net(), "BCEWithLogitsLoss"), "logit", "BCEWithLogitsLoss"),
    "a function": (lambda: (net(), nn.functional.binary_cross_entropy_with_logits), "logit", "binary_cross_entropy_with_logits"),
}


def with_optimizer(module, loss):
    return {"module": module, "loss": loss, "optimizer": torch.optim.AdamW(module.parameters(), lr=1e-2)}


@pytest.mark.parametrize("name", BINARY_MODELS)
def test_two_classes(tmp_path, name):
    make, output, loss = BINARY_MODELS[name]
    result = train(make(), BINARY, PARAMS, tmp_path)
    if name != "with loss and optimiser":  # SoftMargin wants labels of -1 and 1: it learns, but shifted
        assert result.metrics["test"]["auc"] > 0.85
    assert result.adapter.output == output
    assert torchlosses.name_of(result.adapter.loss) == loss
    assert result.samples["test"].scores.shape == (BINARY.events["test"],)
    assert isinstance(result.adapter.model, nn.Module)


@pytest.mark.parametrize("ends", [(), (nn.Softmax(dim=1),)], ids=["logits", "softmax"])
def test_several_classes(tmp_path, ends):
    result = train(net(3, *ends), MULTI, PARAMS, tmp_path)
    assert result.metrics["test"]["auc"] > 0.82
    np.testing.assert_allclose(result.samples["test"].scores.sum(axis=1), 1, atol=1e-5)


def test_regression(tmp_path):
    result = train(net(1, width=4), REGRESSION, Params(epochs=15, batch_size=64, learning_rate=2e-2), tmp_path)
    assert result.metrics["test"]["r2"] > 0.97
    assert result.metrics["test"]["loss"] == pytest.approx(result.metrics["test"]["mse"], rel=1e-4)
    assert (
        train(net(1, width=4), REGRESSION, Params(epochs=15, batch_size=64, learning_rate=2e-2, loss="L1Loss"), tmp_path).metrics["test"]["r2"] > 0.95
    )


def by_hand(x, y, weight=None, epochs=6, batch=64, rate=1e-2, shuffle=False):
    """The loop that every tutorial has."""
    module = net()
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    generator = np.random.default_rng(0)
    for _ in range(epochs):
        order = generator.permutation(len(x)) if shuffle else np.arange(len(x))
        for start in range(0, len(x), batch):
            rows = order[start : start + batch]
            optimizer.zero_grad()
            found = module(torch.tensor(x[rows]))[:, 0]
            each = nn.functional.binary_cross_entropy_with_logits(found, torch.tensor(y[rows], dtype=torch.float32), reduction="none")
            (each if weight is None else each * torch.tensor(weight[rows])).mean().backward()
            optimizer.step()
    return module


def test_the_same_steps_as_by_hand(tmp_path):
    data = ArrayDataset(*blobs(3000), chunk_size=640)
    module = train(net(), data, PARAMS, tmp_path).adapter.model
    x, y, _ = data.part("train")
    for ours, theirs in zip(module.parameters(), by_hand(x, y).parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_weights_enter_the_loss_with_their_signs(tmp_path):
    x, y = blobs(2000)
    weight = np.random.default_rng(1).choice([-0.5, 1.0, 2.0], 2000).astype(np.float32)
    data = ArrayDataset(x, y, weight, chunk_size=640)
    module = train(net(), data, Params(epochs=2, batch_size=64, learning_rate=1e-2), tmp_path).adapter.model
    for ours, theirs in zip(module.parameters(), by_hand(*data.part("train"), epochs=2).parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_the_auc_equals_that_of_the_whole_matrix_in_memory(tmp_path):
    data = ArrayDataset(*blobs(6000), shuffle=True)
    found = train(net(), data, PARAMS, tmp_path).metrics["test"]
    x, y, _ = data.part("train")
    xt, yt, _ = data.part("test")
    reference = by_hand(x, y, shuffle=True)(torch.tensor(xt))[:, 0].detach().numpy()
    assert abs(auc(yt, reference) - found["auc"]) < found["auc_error"]


class Own(nn.Module):
    """A module in the style of Lightning, with its own loss and schedule."""

    def __init__(self, style="tuple") -> None:
        super().__init__()
        self.inner, self.style = net(), style

    def forward(self, x):
        return self.inner(x)

    def loss(self, output, target):
        return nn.functional.binary_cross_entropy_with_logits(output, target, reduction="none")

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9)
        step = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.1, threshold=10.0)
        return {
            "tuple": ([optimizer], [step]),
            "dict": {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}},
            "alone": optimizer,
            "list": [optimizer],
        }[self.style]


@pytest.mark.parametrize(("style", "rate"), [("tuple", 0.5 * 0.5**4), ("dict", 0.5 * 0.1**4), ("alone", 0.5), ("list", 0.5)])
def test_lightning_style_optimisers_and_schedules(tmp_path, style, rate):
    result = train(Own(style), BINARY, Params(epochs=4, batch_size=64, early_stopping=9), tmp_path)
    assert isinstance(result.adapter.optimizer, torch.optim.SGD)
    assert result.adapter.optimizer.param_groups[0]["lr"] == pytest.approx(rate)
    assert result.metrics["test"]["auc"] > 0.85
    again = adapt(Own(style), TWO, PARAMS)
    again.load(result.adapter.dump())
    assert again.optimizer.param_groups[0]["lr"] == pytest.approx(rate)


def test_optimiser_and_loss_by_name(tmp_path):
    result = train(net(), BINARY, PARAMS.model_copy(update={"optimizer": "RMSprop", "loss": "BCEWithLogitsLoss"}), tmp_path)
    assert isinstance(result.adapter.optimizer, torch.optim.RMSprop)
    assert result.adapter.optimizer.param_groups[0]["lr"] == 1e-2
    lbfgs = train(net(), BINARY, Params(epochs=2, batch_size=5000, learning_rate=0.5, optimizer="LBFGS"), tmp_path)
    assert lbfgs.metrics["test"]["auc"] > 0.85
    for given in (torch.optim.Adagrad, functools.partial(torch.optim.Adagrad, lr=1e-2), lambda parameters: torch.optim.Adagrad(parameters, lr=1e-2)):
        for model in ({"model": net(), "optimizer": given}, (net(), nn.BCEWithLogitsLoss(), given)):
            if isinstance(model, tuple) and "lambda" in getattr(given, "__name__", ""):
                continue  # in a tuple a plain function is taken for the loss
            optimizer = adapt(model, TWO, PARAMS).optimizer
            assert isinstance(optimizer, torch.optim.Adagrad)
            assert optimizer.param_groups[0]["lr"] == 1e-2


def test_a_module_with_a_second_input_gets_the_mask(tmp_path):
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()

        def forward(self, x, mask):
            assert mask.dtype == torch.float32
            return self.inner(x * 0 + mask)

    x, y = blobs(2000)
    mask = np.zeros(x.shape, bool)
    mask[:, 0] = y == 1
    result = train(Masked(), ArrayDataset(x, y, mask=mask), PARAMS, tmp_path)
    assert result.adapter.wants_mask
    assert result.metrics["test"]["auc"] == 1


@pytest.mark.parametrize("procedure", ["passes", "chunks"])
def test_both_procedures_with_batch_normalisation_and_a_last_batch_of_one(tmp_path, procedure):
    module = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))
    data = ArrayDataset(*blobs(3000), chunk_size=3 * 64 + 1)
    result = train(module, data, PARAMS.model_copy(update={"procedure": procedure, "shuffle": True}), tmp_path)
    assert result.metrics["test"]["auc"] > 0.85
    assert module.training is False


def test_early_stopping_restores_the_best(tmp_path):
    result = train(net(), BINARY, Params(epochs=30, batch_size=32, learning_rate=0.5, early_stopping=2), tmp_path)
    assert result.metrics["validation"]["loss"] == pytest.approx(min(record["val_loss"] for record in result.history), rel=1e-5)


def test_stop_is_asked_for_every_batch(tmp_path):
    asked = []
    with pytest.raises(Cancelled):
        train(net(), BINARY, PARAMS, tmp_path, stop=lambda: bool(asked.append(1)) or len(asked) > 3)
    assert len(asked) == 4


def test_the_published_model_file_runs_unchanged(tmp_path):
    path = tmp_path / "model.py"
    path.write_text('''"""
Basic example of ML model implemented via pytorch framework
"""
from MLaaS4HEP.jarray.pytorch import JaggedArrayLinear
import torch

def model(idim):
    "Simple PyTorch model for testing purposes"
    model = torch.nn.Sequential(
        JaggedArrayLinear(idim, 5),
        torch.nn.ReLU(),
        torch.nn.Linear(5, 1),
    )
    return model
''')
    result = train(build(path, 6, PARAMS), BINARY, PARAMS, tmp_path / "run")
    assert result.metrics["test"]["auc"] > 0.85


def test_the_same_seed_gives_the_same_model(tmp_path):
    path = tmp_path / "model.py"
    path.write_text("import torch\ndef model(idim):\n    return torch.nn.Linear(idim, 1)\n")
    first, second = (build(path, 6, Params(seed=2**62)).weight.detach().numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)


class Averaging(nn.Module):
    """Its loss averages, so that weights cannot enter."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, x):
        return self.inner(x)

    def loss(self, output, target):
        return ((output - target) ** 2).mean()


def test_a_loss_that_averages_serves_without_weights_only(tmp_path):
    assert train(Averaging(), BINARY, PARAMS, tmp_path).metrics["test"]["auc"] > 0.85
    weighted = Problem("classification", ("b", "s"), 6, weighted=True)
    with pytest.raises(ModelError, match=r"event weights need a loss with one value per event: let loss in model\.py not average"):
        adapt(Averaging(), weighted, PARAMS)


class TwoOutputs(nn.Module):
    def __init__(self, how) -> None:
        super().__init__()
        self.inner, self.how = net(), how

    def forward(self, x):
        found = self.inner(x)
        return {"tuple": (found, found), "deep": found[:, None], "one": found.mean(), "raises": None}[self.how] if self.how != "raises" else [][1]


REFUSED = {
    "width": (lambda: net(width=5), r"calling the torch module with 6 columns failed: RuntimeError: .*mat1 and mat2 shapes cannot be multiplied"),
    "outputs": (lambda: net(3), "has 3 outputs, but this classification needs 1 or 2"),
    "a tuple": (lambda: TwoOutputs("tuple"), "returns tuple: it must return one tensor"),
    "three dimensions": (lambda: TwoOutputs("deep"), r"has the shape \(256, 1, 1\) for 256 events"),
    "one number": (lambda: TwoOutputs("one"), r"has the shape \(\) for 256 events"),
    "raises": (lambda: TwoOutputs("raises"), "failed: IndexError: list index out of range"),
    "no parameters": (lambda: nn.Flatten(0), r"shape \(1536,\)"),
    "BCELoss of logits": (lambda: (net(), nn.BCELoss()), "BCELoss needs probabilities, but the module's output leaves"),
    "CrossEntropyLoss of one": (lambda: (net(), nn.CrossEntropyLoss()), "CrossEntropyLoss needs one output per class"),
    "unknown key": (lambda: {"model": net(), "optimiser": None}, r"key 'optimiser' \(did you mean 'optimizer'\?\)"),
    "no module": (lambda: (nn.BCELoss, torch.optim.Adam(net().parameters())), "returned no torch module beside its loss and optimiser"),
    "something else": (lambda: (net(), 3.5), "returned float beside the torch module"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_before_the_training(name):
    make, sentence = REFUSED[name]
    with pytest.raises(ModelError, match=sentence):
        adapt(make(), TWO, PARAMS)


def test_three_inputs_and_frozen_parameters():
    class Three(nn.Linear):
        def forward(self, x, mask, more):
            return x

    with pytest.raises(ModelError, match="takes 3 inputs: it can take one"):
        adapt(Three(6, 1), TWO, PARAMS)
    frozen = net().requires_grad_(False)
    with pytest.raises(ModelError, match="no parameters to train"):
        adapt(frozen, TWO, PARAMS)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"loss": "BCEWithLogitLoss"}, r"params\.loss: torch\.nn has no loss 'BCEWithLogitLoss' \(did you mean 'BCEWithLogitsLoss'\?\)"),
        ({"optimizer": "adam"}, r"params\.optimizer: torch\.optim has no optimiser 'adam' \(did you mean 'Adam'\?\)"),
        ({"optimizer": "Optimizer"}, r"torch\.optim has no optimiser 'Optimizer'"),
    ],
)
def test_unknown_names(change, sentence):
    with pytest.raises(WorkflowError, match=sentence):
        adapt(net(), TWO, PARAMS.model_copy(update=change))


def test_a_loss_that_applies_what_the_module_did_already_is_said():
    adapter = adapt((net(1, nn.Sigmoid()), nn.BCEWithLogitsLoss()), TWO, PARAMS)
    assert adapter.output == "logit"
    assert "applies it twice" in adapter.notes[0]


def test_a_diverging_training_says_what_to_look_at(tmp_path):
    data = ArrayDataset(*line(500), task="regression", chunk_size=100)
    with pytest.raises(ModelError, match=r"became (nan|inf).*lower the learning rate"):
        train(net(1, width=4), data, Params(learning_rate=1e30), tmp_path)


def test_a_failure_while_training_names_the_line(tmp_path):
    path = tmp_path / "model.py"
    path.write_text("""import torch
class Net(torch.nn.Linear):
    def forward(self, x):
        if self.training:
            raise ValueError("not today")
        return super().forward(x)
def model(idim):
    return Net(idim, 1)
""")
    with pytest.raises(ModelError, match=r"training failed: ValueError: not today \(.*model\.py, line 5\)"):
        train(build(path, 6, PARAMS), BINARY, PARAMS, tmp_path / "run")


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ResourceError, match=r"params\.device is gpu, but PyTorch sees no GPU"):
        adapt(net(), TWO, Params(device="gpu"))


def test_probing_leaves_the_generators_alone():
    module = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    state = torch.get_rng_state()
    adapt(module, TWO, PARAMS)
    torch.testing.assert_close(torch.get_rng_state(), state)


def test_a_fastai_learner(tmp_path):
    path = tmp_path / "model.py"
    path.write_text("""from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import RMSProp
from torch import nn
def model(idim):
    net = nn.Sequential(nn.Linear(idim, 16), nn.ReLU(), nn.Linear(16, 3))
    return Learner(DataLoaders(), net, loss_func=CrossEntropyLossFlat(), opt_func=RMSProp, lr=1e-2, wd=0.01)
""")
    params = Params(epochs=6, batch_size=64)
    weight = np.random.default_rng(1).uniform(0.5, 1.5, len(MULTI.x)).astype(np.float32)
    data = ArrayDataset(MULTI.x, MULTI.y, weight, classes=MULTI.classes)
    result = train(build(path, 6, params), data, params, tmp_path / "run")
    assert result.adapter.framework == "torch"
    assert result.metrics["test"]["auc"] > 0.82
    assert any("DataLoaders" in note for note in result.adapter.notes)
    again = train(build(path, 6, params), data, params, tmp_path / "run", resume=True)
    np.testing.assert_array_equal(again.samples["test"].scores, result.samples["test"].scores)
    other = adapt(build(path, 6, params), THREE, params)
    other.load(result.adapter.dump())
    assert other.optimizer.state_dict()["hypers"][0]["wd"] == pytest.approx(0.01)
    with pytest.raises(ModelError, match="fastai's DataLoaders: return a Learner"):
        adapt(build(path, 6, params).dls, THREE, params)
