"""The command of ``golden/__init__.py``."""

from __future__ import annotations

import argparse
import sys

import golden
from octavo import backend


def main() -> int:
    parser = argparse.ArgumentParser(prog="golden", description="Golden vectors.")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", action="store_true", help="compare with vectors.json")
    choice.add_argument("--write", action="store_true", help="make vectors.json anew")
    options = parser.parse_args()
    found = golden.compute()
    if options.write:
        golden.FILE.write_text(golden.as_text(found))
        return 0
    if not options.check:
        print(golden.as_text(found), end="")
        return 0
    wrong = golden.differences(found)
    missing = sorted(golden.on_record().keys() - found.keys())
    for name in wrong:
        print(f"{backend.current()}: not as on record: {name}", file=sys.stderr)
    for name in missing:
        print(f"on record, but no case: {name}", file=sys.stderr)
    print(f"golden vectors on {backend.current()}: {len(found) - len(wrong)} of {len(found)} equal")
    return 1 if wrong or missing else 0


if __name__ == "__main__":
    sys.exit(main())
