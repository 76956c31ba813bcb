"""Read by the emulated interpreter when it starts: processes that it starts are emulated as well."""

import os
import sys

sys.executable = os.environ["OCTAVO_EMULATED_PYTHON"]
