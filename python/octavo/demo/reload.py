"""Does the saved int8 model give the same bits in a new process?

``python -m octavo.demo.reload FOLDER`` is that process: it knows nothing but the files that
``write_case`` and ``measure.save`` left.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from octavo.demo.conversion import skeleton
from octavo.demo.measure import same_bits

MODEL = "digits_int8"
_CASE = "expected.safetensors"


def write_case(model: nn.Module, images: Tensor, folder: Path) -> None:
    """Saves ``images`` and what ``model`` makes of them."""
    with torch.inference_mode():
        logits = model(images)
    case = {"images": images.contiguous(), "logits": logits.contiguous()}
    safetensors.torch.save_file(case, folder / _CASE)


def compare(folder: Path) -> dict[str, bool]:
    """For each file format: does a new network with the saved state give the saved logits?"""
    case = safetensors.torch.load_file(folder / _CASE)
    states = {
        f"{MODEL}.pt": torch.load(folder / f"{MODEL}.pt", weights_only=True),
        f"{MODEL}.safetensors": safetensors.torch.load_file(folder / f"{MODEL}.safetensors"),
    }
    equal = {}
    for name, state in states.items():
        model = skeleton()
        model.load_state_dict(state)
        with torch.inference_mode():
            equal[name] = same_bits(model(case["images"]), case["logits"])
    return equal


def compare_in_new_process(folder: Path) -> dict[str, bool]:
    """``compare`` in a new Python process.

    Raises:
        RuntimeError: the process failed; the message ends with what it wrote to stderr.
    """
    command = [sys.executable, "-m", "octavo.demo.reload", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(
            f"the process that reloads the saved model ended with {done.returncode}:\n{done.stderr}"
        )
    equal: dict[str, bool] = json.loads(done.stdout.splitlines()[-1])
    return equal


if __name__ == "__main__":
    print(json.dumps(compare(Path(sys.argv[1]))))
