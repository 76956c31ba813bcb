"""``python -m octavo.bench``: the same as ``octavo bench``."""

import sys

from octavo.bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
