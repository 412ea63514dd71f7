"""`python -m mlaas.inference`: the inference service with the settings of the environment."""

from __future__ import annotations

import sys

from mlaas.errors import MLaaSError
from mlaas.inference.run import main
from mlaas.settings import settings

if __name__ == "__main__":
    try:
        sys.exit(main(settings()))
    except MLaaSError as error:
        sys.exit(f"mlaas inference: {error}")
