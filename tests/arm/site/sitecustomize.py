"""Read by the emulated interpreter as it starts: processes that it starts are emulated too."""

import os
import sys

sys.executable = os.environ["OCTAVO_EMULATED_PYTHON"]
