"""Runners: what really runs a job. `base` says what each of them must do; one suite of conformance tests holds them to it."""
