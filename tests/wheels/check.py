"""Fails unless a Linux wheel runs on any system with glibc 2.28, and brings no OpenMP runtime.

    python tests/wheels/check.py WHEEL...

Needs auditwheel, and readelf of binutils.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

GLIBC = (2, 28)
LARGEST = 5_000_000
# Of every Linux: glibc's parts, and what gcc's runtime consists of.
SYSTEM = re.compile(
    r"(libc\.so\.6|libm\.so\.6|libpthread\.so\.0|libdl\.so\.2|librt\.so\.1|ld-linux-.*"
    r"|libgcc_s\.so\.1|libstdc\+\+\.so\.6)"
)


def output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def complaints(wheel: Path) -> list[str]:
    """What is wrong with the wheel."""
    found = []
    size = wheel.stat().st_size
    if size > LARGEST:
        found.append(f"{size} bytes are more than {LARGEST}")
    tag = re.search(r'following\s+platform\s+tag:\s+"manylinux_(\d+)_(\d+)_', audit(wheel))
    if tag is None or (int(tag[1]), int(tag[2])) > GLIBC:
        found.append(f"auditwheel does not find manylinux_{GLIBC[0]}_{GLIBC[1]}:\n{audit(wheel)}")
    if f"manylinux_{GLIBC[0]}_{GLIBC[1]}_" not in wheel.name:
        found.append("its name does not say what it runs on")
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(wheel).extractall(folder)
        libraries = [p for p in Path(folder).rglob("*") if ".so" in p.suffixes]
        names = [str(p.relative_to(folder)) for p in libraries]
        if len(names) != 1 or not names[0].startswith("octavo/_C."):
            found.append(f"it should have one library, the extension, and has {names}")
        for library in libraries:
            dynamic = output("readelf", "--dynamic", "--wide", library)
            needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
            found += [f"it needs {name}" for name in needed if not SYSTEM.fullmatch(name)]
            if re.search(r"\((RPATH|RUNPATH)\)", dynamic):
                found.append("it has a path to search for libraries")
            print(f"{wheel.name}: {size} bytes, needs {' '.join(needed)}")
        found += [
            f"it lacks octavo/{name}"
            for name in ("py.typed", "_C.pyi")
            if not (Path(folder) / "octavo" / name).is_file()
        ]
    return found


def audit(wheel: Path) -> str:
    return " ".join(output("auditwheel", "show", wheel).split())


def main() -> int:
    bad = 0
    for name in sys.argv[1:]:
        for complaint in complaints(Path(name)):
            print(f"{name}: {complaint}", file=sys.stderr)
            bad += 1
    return 1 if bad or len(sys.argv) < 2 else 0


if __name__ == "__main__":
    sys.exit(main())
