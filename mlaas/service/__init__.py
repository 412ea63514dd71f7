"""The service on one machine: its three parts, and what keeps them running."""
