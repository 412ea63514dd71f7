"""What the server and the inference service share of HTTP: errors, logs, metrics, request ids, starting and stopping."""
