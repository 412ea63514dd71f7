"""The inference service: models of the repository behind the published TFaaS calls, the Open Inference Protocol v2 and raw events."""
