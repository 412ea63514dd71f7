"""What TFaaS reads beside a model: params.json and labels.txt (src/Go/tfaas.go of vkuznet/TFaaS)."""

from __future__ import annotations

import json

from mlaas.models.manifest import Manifest

PARAMS = "params.json"
LABELS = "labels.txt"


def params_text(manifest: Manifest, description: str = "") -> str:
    """The text of params.json: the fields of TFaaS's TFParams, with the node names also in the spelling of its documentation."""
    saved = manifest.saved_model
    model = "saved_model.pb" if saved else "model.onnx" if manifest.onnx.accepted else manifest.native.form
    input_node, output_node = (saved.input_node, saved.output_node) if saved else ("x", "scores")
    document = {
        "name": manifest.name,
        "model": model,
        "labels": LABELS,
        "op": "",
        "options": [],
        "input_name": input_node,
        "output_name": output_node,
        "input_node": input_node,
        "output_node": output_node,
        "inputNode": input_node,
        "outputNode": output_node,
        "img_channels": 0,
        "description": description or f"{manifest.framework} model, {manifest.task}, {manifest.width} inputs, trained by MLaaS4HEP",
        "timestamp": manifest.created.isoformat(),
    }
    return json.dumps(document, indent=2) + "\n"


def renamed(text: str, manifest: Manifest) -> str:
    """The text of params.json with the name of the manifest; written anew if it is not JSON."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        return params_text(manifest)
    return json.dumps({**document, "name": manifest.name}, indent=2) + "\n"


def labels_text(manifest: Manifest) -> str:
    """The text of labels.txt: one class per line in the order of the scores; empty for regression."""
    return "".join(f"{' '.join(label.split())}\n" for label in manifest.classes)
