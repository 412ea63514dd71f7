"""The speed figures: `make bench`."""
