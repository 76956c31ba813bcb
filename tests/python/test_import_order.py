"""Octavo and torch in either order of import, alone and beside torch's own parallel work."""

from __future__ import annotations

import subprocess
import sys

import pytest

USE = """
x = octavo.quantize_per_tensor(torch.randn(300, 300), 0.02, 128, octavo.quint8)
module = octavo.nn.quantized.Linear(300, 300)
weight = torch.randint(-128, 128, (300, 300), dtype=torch.int8)
module.set_weight_bias(octavo.QTensor.from_int_repr(weight, 0.01, 0), None)
torch.set_num_threads(2)
first = module(x).int_repr()
(torch.randn(500, 500) @ torch.randn(500, 500)).sum().item()
assert torch.equal(first, module(x).int_repr())
info = octavo.backend.parallel_info()
assert info["threads"] == 2, info
print(info["pool"], info["library"])
"""

ORDERS = {
    "torch first": "import torch\nimport octavo\n",
    "octavo first": "import octavo\nimport torch\n",
    "torch used first": "import torch\ntorch.randn(500, 500).tanh()\nimport octavo\n",
    "submodule first": "import octavo.nn.quantized\nimport octavo\nimport torch\n",
    "intrinsic first": "import octavo.nn.intrinsic.quantized\nimport octavo\nimport torch\n",
    "quantization first": "import octavo.quantization\nimport octavo\nimport torch\n",
    "numpy first": "import numpy\nnumpy.ones((300, 300)) @ numpy.ones((300, 300))\nimport octavo\n"
    "import torch\n",
}


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("order", ORDERS)
def test_order(order: str) -> None:
    run(ORDERS[order] + USE)


def test_the_pool_does_not_depend_on_the_order() -> None:
    assert run(ORDERS["torch first"] + USE) == run(ORDERS["octavo first"] + USE)


def test_torch_ao_is_not_imported() -> None:
    """Octavo must not be what brings torch.ao in; torch itself may."""
    modules = "print(*sorted(m for m in sys.modules if m.startswith('torch.ao')))"
    assert run("import sys, torch\n" + modules) == run("import sys, torch, octavo\n" + modules)
