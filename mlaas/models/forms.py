"""The forms of a model on their way into a bundle: each is compared with the trained model before it may serve."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from mlaas.models import native, staging
from mlaas.models.engine import native_engine, onnx_engine
from mlaas.models.graph import canonical_graph, serialise
from mlaas.models.manifest import Manifest, OnnxRecord, SavedModelRecord
from mlaas.models.parity import Parity, compare
from mlaas.models.scores import canonical
from mlaas.models.sentences import short
from mlaas.models.trained import TrainedModel

log = logging.getLogger(__name__)

NATIVE_TOLERANCE = 1e-5  # the same library computes the same, up to how it splits sums over a batch


def judge_native(folder: Path, trained: TrainedModel, draft: Manifest) -> tuple[Manifest, str]:
    """Load the native form again and compare: what was written must be what was trained. Returns why it is in doubt, too, or ""."""
    try:
        verdict = compare(native_engine(folder, draft, trust=True).predict, trained, NATIVE_TOLERANCE)
    except Exception as error:
        staging.raise_if_full(error, folder)
        verdict = Parity(False, None, short(error, folder))
    note = draft.native.note
    doubt = verdict.reason if len(trained.x) else ""
    if doubt:
        note = "; ".join(part for part in (note, f"loaded again, {verdict.reason}") if part)
        log.warning("the native form of the %s model is in doubt: loaded again, %s", trained.framework, verdict.reason)
    record = draft.native.model_copy(update={"difference": verdict.difference, "note": note})
    return draft.model_copy(update={"native": record}), doubt


def judge_onnx(folder: Path, trained: TrainedModel, draft: Manifest, tolerance: float) -> Manifest:
    """Convert to ONNX, pass it through the parity gate, and keep it only when it is accepted."""
    data = b""
    try:
        data = serialise(canonical_graph(native.to_onnx(trained), trained.width, max(1, len(trained.classes))))
        verdict = compare(onnx_engine(data, draft).predict, trained, tolerance)
    except Exception as error:
        staging.raise_if_full(error, folder)
        verdict = Parity(False, None, f"conversion failed: {short(error, folder)}")
    if verdict.accepted:
        staging.write_bytes(folder / "model.onnx", data)
    record = OnnxRecord(accepted=verdict.accepted, difference=verdict.difference, tolerance=tolerance, reason=verdict.reason)
    return draft.model_copy(update={"onnx": record, "engine": "onnx" if verdict.accepted else "native"})


def write_saved_model(folder: Path, trained: TrainedModel, tolerance: float) -> SavedModelRecord:
    """Write the SavedModel and compare it, run as TFaaS runs it."""
    from mlaas.models import keras

    try:
        input_node, output_node = keras.save_saved_model(trained, folder)
        raw = keras.saved_model_predict(folder, input_node, output_node, trained.wants_mask)
        kind = trained.output if trained.output in ("value", "classes") else "classes" if trained.output == "logits" else "probability"
        verdict = compare(lambda x, mask: canonical(raw(x, mask), kind), trained, tolerance)
        if verdict.accepted and (input_node, output_node) != (keras.INPUT_NODE, keras.OUTPUT_NODE):
            reason = f"its nodes are {input_node} and {output_node}, but TFaaS uses {keras.INPUT_NODE} and {keras.OUTPUT_NODE}"
            verdict = Parity(False, verdict.difference, reason)
    except Exception as error:
        staging.raise_if_full(error, folder)
        for part in ("saved_model", "variables", "assets"):
            shutil.rmtree(folder / part, ignore_errors=True)
        for part in ("saved_model.pb", "fingerprint.pb"):
            (folder / part).unlink(missing_ok=True)
        return SavedModelRecord(accepted=False, reason=f"conversion failed: {short(error, folder)}")
    return SavedModelRecord(
        input_node=input_node, output_node=output_node, accepted=verdict.accepted, difference=verdict.difference, reason=verdict.reason
    )
