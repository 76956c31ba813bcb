"""Quantized modules used from many threads, with torch's thread count, and across fork.

What could hang runs in a process of its own, with a time limit.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import octavo
from module_support import generator, random_conv, random_linear, random_q, threads

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

LIMIT = 120
PRELUDE = """
import zlib
import torch
import octavo
from octavo import QTensor
from octavo.nn import quantized as nnq

torch.manual_seed(0)
LINEAR = nnq.Linear(512, 512)
LINEAR.set_weight_bias(
    QTensor.from_int_repr(torch.randint(-128, 128, (512, 512), dtype=torch.int8), 0.01, 0),
    torch.randn(512),
)
LINEAR.scale, LINEAR.zero_point = 0.5, 128
CONV = nnq.Conv2d(16, 32, 3, padding=1)
CONV.set_weight_bias(
    QTensor.from_int_repr(torch.randint(-128, 128, (32, 16, 3, 3), dtype=torch.int8), 0.01, 0),
    torch.randn(32),
)
CONV.scale, CONV.zero_point = 0.5, 128
X = QTensor.from_int_repr(torch.randint(0, 256, (512, 512), dtype=torch.uint8), 0.02, 100)
IMAGE = QTensor.from_int_repr(torch.randint(0, 256, (4, 16, 40, 40), dtype=torch.uint8), 0.02, 100)

def run():
    return [zlib.crc32(y._int.numpy().tobytes()) for y in (LINEAR(X), CONV(IMAGE))]
"""


def run_script(path: Path, body: str, **environment: str) -> str:
    """What a script prints; its failure or a hang fails the test."""
    path = path / "script.py"
    path.write_text(PRELUDE + body)
    try:
        done = subprocess.run(
            [sys.executable, str(path)],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"hung for {LIMIT} s; printed {error.stdout!r}, {error.stderr!r}")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.kernel
@pytest.mark.parametrize("torch_threads", [1, 2])
def test_eight_threads_call_one_module(isa: str, torch_threads: int) -> None:
    linear, conv = random_linear(200, 300), random_conv(16, 40, 3, padding=1)
    rows = [random_q((50 + i, 200), generator(i)) for i in range(8)]
    images = [random_q((2, 16, 9 + i, 9), generator(i)) for i in range(8)]
    with threads(torch_threads):
        expected = [(linear(r).int_repr(), conv(x).int_repr()) for r, x in zip(rows, images)]  # noqa: B905

        def work(i: int) -> bool:
            return all(
                torch.equal(linear(rows[i]).int_repr(), expected[i][0])
                and torch.equal(conv(images[i]).int_repr(), expected[i][1])
                for _ in range(20)
            )

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(8)))


@pytest.mark.kernel
def test_first_calls_from_eight_threads(isa: str) -> None:
    """Whatever a module or its weight does at first use, it does safely."""
    x = random_q((64, 96), generator(0))
    expected = random_linear(96, 80, seed=3)(x).int_repr()
    fresh: Any = None
    for _ in range(10):
        fresh = None  # or the next one would share its packed weight
        fresh = random_linear(96, 80, seed=3)
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda _, m=fresh: m(x).int_repr(), range(8)))
        assert all(torch.equal(r, expected) for r in results)


@pytest.mark.kernel
def test_different_input_scales_from_eight_threads(isa: str) -> None:
    module = random_linear(96, 80)
    inputs = [random_q((16, 96), generator(i), scale=0.01 * (i + 1), zero=i) for i in range(8)]
    expected = [module(x).int_repr() for x in inputs]

    def work(i: int) -> bool:
        return all(torch.equal(module(inputs[i]).int_repr(), expected[i]) for _ in range(50))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_thread_count_is_torch_s(count: int) -> None:
    module, x = random_linear(300, 300), random_q((100, 300), generator(0))
    expected = module(x).int_repr()
    with threads(count):
        assert octavo.backend.parallel_info()["threads"] == count
        assert torch.equal(module(x).int_repr(), expected)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_no_threads_beyond_torch_s(tmp_path: Path) -> None:
    """With one thread none is started; with two, the only pool is the one that torch uses too."""
    output = run_script(
        tmp_path,
        """
import os
count = lambda: len(os.listdir("/proc/self/task"))
torch.set_num_threads(1)
before = count()
run()
one = count() - before
torch.set_num_threads(2)
a = torch.randn(600, 600)
for _ in range(3):
    a @ a
torch.add(torch.randn(10**6), 1)
with_torch = count()
for _ in range(3):
    run()
print(one, count() - with_torch)
""",
    )
    assert output == "0 0"


@needs_fork
def test_fork_after_use(tmp_path: Path) -> None:
    output = run_script(
        tmp_path,
        """
import multiprocessing as mp

def child(pipe):
    pipe.send(run())

if __name__ == "__main__":
    torch.set_num_threads(2)
    expected = run()
    context = mp.get_context("fork")
    results = []
    for _ in range(2):
        ours, theirs = context.Pipe()
        process = context.Process(target=child, args=(theirs,))
        process.start()
        results.append(ours.recv() if ours.poll(60) else "nothing")
        process.join(60)
        results.append(process.exitcode)
    print(results == [expected, 0, expected, 0], run() == expected)
""",
    )
    assert output == "True True"


@needs_fork
def test_fork_after_use_of_torch_alone(tmp_path: Path) -> None:
    """The pool exists in the parent although Octavo has not used it."""
    output = run_script(
        tmp_path,
        """
import os, signal

torch.set_num_threads(2)
torch.tanh(torch.randn(2000, 2000))
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    run()
    torch.tanh(torch.randn(2000, 2000))
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
""",
    )
    assert output == "0"


@needs_fork
def test_fork_before_use_can_have_threads(tmp_path: Path) -> None:
    """A server that loads the model, forks its workers, and computes only there."""
    output = run_script(
        tmp_path,
        """
import os, signal

expected = run()
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    one = octavo.backend.parallel_info()["threads"]
    torch.set_num_threads(2)
    two = octavo.backend.parallel_info()["threads"]
    os._exit(0 if (one, two) == (1, 2) and run() == expected else 1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
""",
        OMP_NUM_THREADS="1",  # so that the parent starts no pool
    )
    assert output == "0"


@needs_fork
def test_fork_while_other_threads_run(tmp_path: Path) -> None:
    output = run_script(
        tmp_path,
        """
import os, threading, signal

stop = threading.Event()
def spin():
    while not stop.is_set():
        run()

torch.set_num_threads(2)
expected = run()
workers = [threading.Thread(target=spin) for _ in range(2)]
for w in workers:
    w.start()
codes = []
for _ in range(5):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        os._exit(0 if run() == expected else 1)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
stop.set()
for w in workers:
    w.join()
print(codes)
""",
    )
    assert output == "[0, 0, 0, 0, 0]"


def test_data_loader_workers(tmp_path: Path) -> None:
    output = run_script(
        tmp_path,
        """
from torch.utils.data import DataLoader, Dataset

class Preprocessed(Dataset):
    def __len__(self):
        return 6
    def __getitem__(self, index):
        return LINEAR(X).int_repr()[index]  # workers run torch with one thread

if __name__ == "__main__":
    torch.set_num_threads(2)
    expected = LINEAR(X).int_repr()[:6]
    checksums = run()
    loader = DataLoader(Preprocessed(), batch_size=2, num_workers=2)
    for _ in range(2):
        got = torch.cat(list(loader))
        assert torch.equal(got, expected)
    print(run() == checksums)
""",
    )
    assert output == "True"


def test_inside_torch_s_own_parallel_work(tmp_path: Path) -> None:
    """A module called while torch's pool is busy with the same thread's backward or matmul."""
    output = run_script(
        tmp_path,
        """
torch.set_num_threads(2)
expected = run()
a = torch.randn(400, 400)
for _ in range(20):
    a = torch.tanh(a @ a)
    assert run() == expected
print("done")
""",
    )
    assert output == "done"
