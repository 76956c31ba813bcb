"""The emulator under LD_PRELOAD in a Python process with faulthandler, as pytest enables it.

Run by ctest, which names the two libraries in OCTAVO_AMX_EMULATOR_LIBRARY and
OCTAVO_AMX_PROBE_LIBRARY. Works under unittest and under pytest (with LD_PRELOAD set); as a
program it starts itself again with LD_PRELOAD and faulthandler.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import random
import signal
import subprocess
import sys
import threading
import unittest

EMULATOR = os.environ["OCTAVO_AMX_EMULATOR_LIBRARY"]
PROBE = os.environ["OCTAVO_AMX_PROBE_LIBRARY"]


def preloaded() -> dict[str, str]:
    return {**os.environ, "LD_PRELOAD": EMULATOR}


def run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**preloaded(), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def emulated_features() -> str:
    function = ctypes.CDLL(None).octavo_emulated_cpu_features
    function.restype = ctypes.c_char_p
    return bytes(function()).decode()


def product_is_right(probe: ctypes.CDLL, seed: int) -> bool:
    rng = random.Random(seed)
    a = [rng.randrange(256) for _ in range(16 * 64)]
    b = [rng.randrange(-128, 128) for _ in range(16 * 64)]
    c = [rng.randrange(-1000, 1000) for _ in range(256)]
    result = (ctypes.c_int32 * 256)(*c)
    probe.octavo_probe_product((ctypes.c_uint8 * 1024)(*a), (ctypes.c_int8 * 1024)(*b), result)
    return list(result) == [
        c[16 * m + n] + sum(a[64 * m + k] * b[64 * (k // 4) + 4 * n + k % 4] for k in range(64))
        for m in range(16)
        for n in range(16)
    ]


class PreloadTest(unittest.TestCase):
    def setUp(self) -> None:
        self.probe = ctypes.CDLL(PROBE)

    def test_features_are_announced(self) -> None:
        assert emulated_features() == "amx_tile,amx_int8"

    def test_product(self) -> None:
        assert faulthandler.is_enabled()
        assert product_is_right(self.probe, 1)
        faulthandler.disable()
        assert product_is_right(self.probe, 2)
        faulthandler.enable()
        assert product_is_right(self.probe, 3)

    def test_product_beside_a_python_signal_handler(self) -> None:
        faulthandler.disable()
        signal.signal(signal.SIGILL, lambda *_: None)
        try:
            assert product_is_right(self.probe, 4)
        finally:
            signal.signal(signal.SIGILL, signal.SIG_DFL)
            faulthandler.enable()

    def test_product_in_threads(self) -> None:
        right: list[bool] = []
        threads = [
            threading.Thread(
                target=lambda seed=seed: right.append(product_is_right(self.probe, seed))
            )
            for seed in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert right == [True] * 8

    def test_product_in_a_forked_child(self) -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if product_is_right(self.probe, 5) else 1)
        assert os.waitpid(pid, 0)[1] == 0

    def test_faulthandler_still_reports_illegal_instructions(self) -> None:
        for name in ("octavo_probe_ud2", "octavo_probe_unconfigured"):
            code = f"import ctypes, faulthandler as f; f.enable(); ctypes.CDLL({PROBE!r}).{name}()"
            result = run_python(code)
            assert result.returncode == -signal.SIGILL, result.stderr
            assert "Fatal Python error: Illegal instruction" in result.stderr
            assert ("no tiles are configured" in result.stderr) == ("unconf" in name)

    def test_off_switch_and_bad_value(self) -> None:
        code = (
            "import ctypes; f = ctypes.CDLL(None).octavo_emulated_cpu_features; "
            "f.restype = ctypes.c_char_p; print(f())"
        )
        assert run_python(code, OCTAVO_AMX_EMULATOR="off").stdout == "b''\n"
        assert run_python(code, OCTAVO_AMX_EMULATOR="always").stdout == "b'amx_tile,amx_int8'\n"
        result = run_python(code, OCTAVO_AMX_EMULATOR="yes")
        assert result.returncode == -signal.SIGABRT
        assert "it can be auto, always or off" in result.stderr


def main() -> None:
    if "LD_PRELOAD" not in os.environ:
        os.execve(sys.executable, [sys.executable, "-X", "faulthandler", *sys.argv], preloaded())
    if not emulated_features():
        print("this CPU runs AMX itself: nothing to test")
        return
    unittest.main()


if __name__ == "__main__":
    main()
