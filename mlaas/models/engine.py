"""Engines: a bundle's model, loaded, that turns feature matrices into canonical scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from mlaas.errors import BundleError, DataError
from mlaas.models import native
from mlaas.models.manifest import EngineKind, Manifest
from mlaas.models.scores import Matrix, Scores, canonical, score_shape

if TYPE_CHECKING:
    from mlaas.models.bundle import Bundle

BATCH_BYTES = 16 * 2**20
BATCH_ROWS = 65536


@dataclass(frozen=True, slots=True, eq=False)
class Engine:
    """A loaded model; `predict` may be called from several threads at once."""

    kind: EngineKind
    manifest: Manifest
    run: Callable[[Matrix, Matrix | None], Scores]

    def predict(self, x: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Scores:
        """Canonical scores of a feature matrix, in batches of bounded size.

        x: (n, width), made float32. mask: the same shape, true or 1 where x is padding; needed if the model takes it, else ignored.
        Returns float32 (n,), or (n, K) for more than two classes. Raises DataError for a wrong shape or a missing mask.
        """
        matrix = self._matrix(x, "the feature matrix")
        padding = None
        if self.manifest.mask:
            if mask is None:
                raise DataError(f"the model {self.manifest.name!r} takes a mask of the padding beside the feature matrix")
            padding = self._matrix(mask, "the mask")
            if len(padding) != len(matrix):
                raise DataError(f"the mask has {len(padding)} events, but the feature matrix has {len(matrix)}")
        shape = score_shape(len(matrix), self.manifest.task, len(self.manifest.classes))
        scores = np.empty(shape, np.float32)
        size = max(1, min(BATCH_ROWS, BATCH_BYTES // (4 * self.manifest.width)))
        for start in range(0, len(matrix), size):
            rows = slice(start, start + size)
            part = self.run(matrix[rows], None if padding is None else padding[rows])
            if part.shape != scores[rows].shape:
                raise BundleError(f"the model {self.manifest.name!r} gave scores of shape {part.shape} instead of {scores[rows].shape}")
            scores[rows] = part
        return scores

    def _matrix(self, values: npt.ArrayLike, what: str) -> Matrix:
        try:
            matrix = np.ascontiguousarray(values, dtype=np.float32)
        except (TypeError, ValueError):
            raise DataError(f"{what} must be a matrix of numbers of shape (n, {self.manifest.width})") from None
        if matrix.ndim != 2 or matrix.shape[1] != self.manifest.width:
            raise DataError(f"{what} has shape {matrix.shape}, but the model {self.manifest.name!r} takes (n, {self.manifest.width})")
        return matrix


def load_engine(
    bundle: Bundle | Path | str, engine: Literal["auto", "onnx", "native"] = "auto", trust: bool = False, threads: int = 1, verify: bool = True
) -> Engine:
    """Load a bundle's model. A path is read, and its digests are checked, first.

    engine: "onnx" (ONNX Runtime, needs no framework), "native" (the framework itself), or "auto": the one that passed the parity gate, ONNX first.
    trust: allow forms that can run code when loaded (pickles, torch programs, model.py). threads: of ONNX Runtime and XGBoost; the
    other frameworks keep their own setting, which is one for the whole process.
    Raises BundleError (damaged, or needs trust), MissingExtraError (native form without its framework).
    """
    from mlaas.models.bundle import Bundle, read_bundle

    opened = bundle if isinstance(bundle, Bundle) else read_bundle(Path(bundle), verify=verify)
    manifest = opened.manifest
    if engine not in ("auto", "onnx", "native"):
        raise BundleError(f"engine: {engine!r} is not one of auto, onnx, native")
    chosen = manifest.engine if engine == "auto" else engine
    if chosen == "onnx":
        if not manifest.onnx.accepted:
            raise BundleError(f"the bundle {opened.path} has no ONNX form ({manifest.onnx.reason}); use its native engine")
        return onnx_engine(opened.file("model.onnx").read_bytes(), manifest, threads)
    try:
        return native_engine(opened.path, manifest, trust=trust, threads=threads)
    except BundleError as error:
        if engine == "auto" and not trust and "trust" in str(error):
            raise BundleError(f"{error} (the ONNX form, which needs no trust, was refused: {manifest.onnx.reason})") from None
        raise


def native_engine(folder: Path, manifest: Manifest, *, trust: bool, threads: int = 1) -> Engine:
    """The engine of the framework's own form in a folder."""
    raw = native.load(folder, manifest, trust=trust, threads=threads)
    return Engine("native", manifest, lambda x, mask: canonical(raw(x, mask), manifest.output))


def onnx_engine(data: bytes, manifest: Manifest, threads: int = 1) -> Engine:
    """The engine of an ONNX graph with the signature of `graph.canonical_graph`."""
    session = _session(data, threads)
    names = {found.name for found in session.get_inputs()}
    expected = {"x", "mask"} if manifest.mask else {"x"}
    if not names <= expected or [output.name for output in session.get_outputs()] != ["scores"]:
        raise BundleError(f"model.onnx has the inputs {', '.join(sorted(names))}; it must have {', '.join(sorted(expected))} and the output scores")

    def run(x: Matrix, mask: Matrix | None) -> Scores:
        feed = {"x": x, "mask": mask}
        try:
            return np.asarray(session.run(["scores"], {name: feed[name] for name in names})[0])
        except Exception as error:
            raise BundleError(f"ONNX Runtime cannot run model.onnx: {str(error).splitlines()[0]}") from error

    return Engine("onnx", manifest, run)


def _session(data: bytes, threads: int) -> Any:
    import onnx
    import onnxruntime

    from mlaas.models.graph import refuse_external_data

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, threads)
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    for key in ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning"):
        options.add_session_config_entry(key, "0")
    try:
        refuse_external_data(onnx.load_from_string(data))
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except BundleError:
        raise
    except Exception as error:
        raise BundleError(f"model.onnx cannot be loaded by ONNX Runtime: {str(error).splitlines()[0]}") from error
