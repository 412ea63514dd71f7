"""What is often done: a Flask route that calls the signature of a TensorFlow SavedModel. `python -m tests.bench.flask_baseline FOLDER PORT`"""

from __future__ import annotations

import sys


def main() -> None:
    """Serve until the process is ended."""
    import flask
    import tensorflow as tf

    folder, port = sys.argv[1], int(sys.argv[2])
    signature = tf.saved_model.load(folder).signatures["serving_default"]
    [name] = [spec.name for spec in signature.structured_input_signature[1].values()]
    app = flask.Flask(__name__)

    @app.post("/json")
    def predict() -> flask.Response:
        values = flask.request.get_json()["values"]
        [scores] = signature(**{name: tf.constant([values], tf.float32)}).values()
        return flask.jsonify(scores.numpy()[0].tolist())

    print("ready", flush=True)
    app.run("127.0.0.1", port, threaded=True)


if __name__ == "__main__":
    main()
