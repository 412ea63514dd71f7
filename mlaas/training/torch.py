"""PyTorch modules, with loss and optimiser given by model.py or the workflow, or chosen by task and output."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas.data.chunks import Chunk
from mlaas.errors import ModelError
from mlaas.models.scores import canonical
from mlaas.training import torchlosses as losses
from mlaas.training import torchparts as parts
from mlaas.training.adapter import Check, Mask, Matrix, Problem, Streaming, framework_errors
from mlaas.training.devices import torch_device
from mlaas.training.torchoptimizers import find_optimizer
from mlaas.workflow import Params

LOSS_ROWS = 8192


@dataclass
class TorchAdapter(Streaming):
    """A module with its loss and optimiser; see `adapt_torch`.

    loss: called with output and target, gives one value per event (or one for all, when no weights are used). scheduler: of the learning rate,
    stepped after each epoch, or None. closure: whether the optimiser's step takes a closure (it must for LBFGS; fastai's do not take one).
    """

    framework = "torch"
    loss: Callable[[Any, Any], Any] = field(default=lambda output, target: None)
    target: losses.Target = "like"
    optimizer: Any = None
    scheduler: Any = None
    device: str = "cpu"
    closure: bool = True

    def raw(self, x: Matrix, mask: Mask | None) -> npt.NDArray[Any]:
        import torch

        self.model.eval()
        with torch.inference_mode():
            found: npt.NDArray[Any] = self._call(self._tensor(x), None if mask is None else self._tensor(mask)).float().cpu().numpy()
        return found

    def _tensor(self, array: npt.NDArray[Any]) -> Any:
        import torch

        return torch.as_tensor(array.astype(np.float32) if array.dtype == bool else array, device=self.device)

    def _call(self, x: Any, mask: Any) -> Any:
        return self.model(x) if mask is None else self.model(x, mask)

    def learn(self, chunk: Chunk, check: Check) -> float:
        total = 0.0
        self.model.train()
        for batch in chunk.batches(self.params.batch_size):
            with parts.single_event(self.model, len(batch)):
                total += self._step(batch) * len(batch)
            check()
        return total / len(chunk)

    def _step(self, batch: Chunk) -> float:
        x, y, weight, mask = self._batch(batch)

        def closure() -> Any:
            self.optimizer.zero_grad()
            loss = self._mean(self._call(x, mask), y, weight)
            loss.backward()
            return loss

        if self.closure:
            return float(self.optimizer.step(closure).detach())
        loss = closure()
        self.optimizer.step()
        return float(loss.detach())

    def _batch(self, batch: Chunk) -> tuple[Any, Any, Any, Any]:
        weight = self._tensor(batch.weight) if self.problem.weighted else None
        mask = self._tensor(batch.mask) if self.wants_mask and batch.mask is not None else None
        return self._tensor(batch.x), self._tensor(batch.y), weight, mask

    def _mean(self, output: Any, y: Any, weight: Any) -> Any:
        """The sum of weight * loss over the batch, divided by its number of events."""
        loss = self.loss(output, losses.labels(y, output, self.target))
        if weight is None or loss.ndim == 0:
            return loss.mean()
        each = loss.reshape(len(weight), -1).mean(dim=1)
        return (each * weight).sum() / len(weight)

    def evaluate(self, chunk: Chunk) -> tuple[npt.NDArray[np.float32], float]:
        import torch

        scores, total = [], 0.0
        self.model.eval()
        with torch.inference_mode():
            for start in range(0, len(chunk), LOSS_ROWS):
                rows = slice(start, start + LOSS_ROWS)
                part = Chunk(chunk.x[rows], chunk.y[rows], chunk.weight[rows], None if chunk.mask is None else chunk.mask[rows], chunk.order[:0])
                x, y, weight, mask = self._batch(part)
                output = self._call(x, mask)
                scores.append(canonical(output.float().cpu().numpy(), self.output))
                total += float(self._mean(output, y, weight)) * len(part)
        return np.concatenate(scores), total / len(chunk)

    def end_epoch(self, val_loss: float | None) -> None:
        if self.scheduler is None:
            return
        if "metrics" in inspect.signature(self.scheduler.step).parameters:
            if val_loss is not None:
                self.scheduler.step(val_loss)
        else:
            self.scheduler.step()

    def dump(self) -> bytes:
        import torch

        document = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "cpu": torch.get_rng_state()}
        if self.scheduler is not None:
            document["scheduler"] = {name: value for name, value in self.scheduler.state_dict().items() if parts.plain(value)}
        if self.device == "cuda":
            document["cuda"] = torch.cuda.get_rng_state()
        return _save(document)

    def load(self, data: bytes) -> None:
        import torch

        document = _load(data, self.device)
        self.model.load_state_dict(document["model"])
        self.optimizer.load_state_dict(document["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(document["scheduler"])
        torch.set_rng_state(document["cpu"].cpu())
        if "cuda" in document and self.device == "cuda":
            torch.cuda.set_rng_state(document["cuda"].cpu())

    def weights(self) -> bytes:
        return _save(self.model.state_dict())

    def restore(self, data: bytes) -> None:
        self.model.load_state_dict(_load(data, self.device))


def _save(document: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(document, buffer)
    return buffer.getvalue()


def _load(data: bytes, device: str) -> Any:
    """Read tensors and plain values only: `weights_only` executes nothing."""
    import torch

    return torch.load(io.BytesIO(data), map_location=device, weights_only=True)


def adapt_torch(model: Any, problem: Problem, params: Params) -> TorchAdapter:
    """Check a torch module against the problem and find its loss and optimiser. Raises ModelError with what to change.

    model: a module, or a tuple or a dict of the module with a loss and an optimiser. Loss: the one given with the module, else its attribute `loss`
    (or `criterion`, `loss_fn`), else params.loss, else by task: MSELoss; BCELoss after a sigmoid, BCEWithLogitsLoss for one bare output;
    CrossEntropyLoss (with a logarithm before it when the module ends with a softmax). Optimiser: the one given, else the module's
    `configure_optimizers()` (as in Lightning), else its attribute `optimizer`, else params.optimizer with params.learning_rate, else Adam.
    """
    module, loss, optimizer = parts.split(model)
    device = torch_device(params.device)
    wants_mask = parts.wants_mask(module)
    module.to(device)
    with framework_errors(f"calling the torch module with {problem.width} columns"):
        probe = parts.probe(module, problem.width, wants_mask, device)
    units = parts.units(probe, problem)
    chosen = losses.find_loss(module, loss, params)
    shape = parts.shape_of(module, probe, units)
    function, output, notes = losses.settle(chosen, shape, problem, units)
    function = losses.per_event(function, problem.weighted)
    optimizer, scheduler = find_optimizer(module, optimizer, params)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ModelError("the torch module has no parameters to train")
    target = losses.target_of(function, problem, units)
    adapter = TorchAdapter(module, problem, params, output, wants_mask, notes, function, target, optimizer, scheduler, device)
    _rehearse(adapter)
    return adapter


def _rehearse(adapter: TorchAdapter) -> None:
    """Compute the loss of two events, so that a loss which does not fit the output is found before the training."""
    problem = adapter.problem
    y: npt.NDArray[Any] = np.array([0, 1]) if problem.task == "classification" else np.array([0, 1], np.float32)
    x = np.random.default_rng(0).random((2, problem.width), dtype=np.float32)
    chunk = Chunk(x, y, np.ones(2, np.float32), np.zeros(x.shape, bool), np.arange(2))
    with framework_errors(f"the loss {losses.name_of(adapter.loss)} with the module's output"):
        adapter.evaluate(chunk)
