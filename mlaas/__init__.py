"""MLaaS4HEP: machine learning as a service for high-energy physics."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("mlaas")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0.0.0"
