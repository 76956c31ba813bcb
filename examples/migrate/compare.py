"""Four scripts of torch.ao beside their Octavo forms: what changes in them, and in the results.

Each pair (``torch_ao_*.py`` and ``octavo_*.py``) quantizes the same trained network. The tables say
how many digits each model recognizes, how often two of them choose the same one, how large the
files are and how long a batch takes; the diff of each pair says what a migration is. Float is timed
with its batch norms folded into its convolutions, in the memory format that is faster. Where torch
has no torch.ao any more, its rows are missing and the rest is the same.
"""

from __future__ import annotations

import argparse
import copy
import difflib
import io
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import digits
import octavo_dynamic
import octavo_fx
import octavo_qat
import octavo_static
import torch
from peer import hide_torch_ao, script, version
from rich.progress import track
from torch import Tensor, nn

import octavo.quantization as tq
from octavo.quantization.quantize_fx import fuse_fx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from shared import (  # noqa: E402
    Results,
    float_calls,
    milliseconds,
    parser,
    prepare,
    with_faster_float,
)

KINDS = {
    "dynamic": octavo_dynamic,
    "static": octavo_static,
    "qat": octavo_qat,
    "fx": octavo_fx,
}
FLOAT = "float"
THEIRS, SAME, OWN = "torch.ao", "Octavo, torch's settings", "Octavo, own settings"

# Name of a row -> what quantizes the float model.
Recipes = dict[str, Callable[[], nn.Module]]


def trained(data: digits.Digits, seed: int, epochs: int) -> dict[str, nn.Module]:
    """The float network of each pair. Those with convolutions have the same weights."""
    torch.manual_seed(seed)
    convolutions = digits.train(octavo_static.Net(), data, epochs)
    untraced = octavo_fx.Net()
    untraced.load_state_dict(convolutions.state_dict())
    recurrent = digits.train(octavo_dynamic.Net(), data, epochs)
    return {
        "dynamic": recurrent,
        "static": convolutions,
        "qat": convolutions,
        "fx": untraced.eval(),
    }


def recipes(
    kind: str, model: nn.Module, data: digits.Digits, arguments: argparse.Namespace
) -> Recipes:
    """How torch.ao, where it is, and Octavo quantize one of the networks."""
    ours, theirs = KINDS[kind], script(f"torch_ao_{kind}")
    found: Recipes = {}
    if theirs is not None:
        twin = theirs.Net()
        twin.load_state_dict(model.state_dict())
        twin.eval()
    if kind == "dynamic":
        if theirs is not None:
            found[THEIRS] = lambda: theirs.quantize(twin)
        spec = dict.fromkeys((nn.LSTM, nn.Linear), tq.torch_compatible_dynamic_qconfig)
        found[SAME] = lambda: tq.quantize_dynamic(model, spec)
        found[OWN] = lambda: ours.quantize(model)
        return found

    epochs = {"epochs": 1 if arguments.quick else 3} if kind == "qat" else {}

    def seeded(module: Any, net: nn.Module, backend: str) -> nn.Module:
        torch.manual_seed(arguments.seed)  # training sees the batches in the same order
        return module.quantize(copy.deepcopy(net), data, backend, **epochs)

    if theirs is not None:
        found[THEIRS] = lambda: seeded(theirs, twin, "x86")
    found[SAME] = lambda: seeded(ours, model, "x86")
    found[OWN] = lambda: seeded(ours, model, "octavo")
    return found


def folded(kind: str, model: nn.Module) -> nn.Module:
    """The float network to time, with batch norms folded into convolutions, as int8 has them."""
    if kind == "dynamic":
        return model  # which has neither
    return fuse_fx(model) if kind == "fx" else tq.fuse_modules(model, octavo_static.FUSED)


def file_kilobytes(model: nn.Module) -> float:
    """The size of the model's state dict in a file."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell() / 1000


def agreement(first: Tensor, second: Tensor | None) -> float | None:
    """How often two models choose the same digit, in percent."""
    if second is None:
        return None
    return 100 * float((first.argmax(1) == second.argmax(1)).float().mean())


def measured(
    models: dict[str, nn.Module], fast: nn.Module, data: digits.Digits, quick: bool
) -> list[dict[str, Any]]:
    """A row for each model: accuracy, agreement, size and latency.

    Args:
        models: float, and what was made of it.
        fast: the float model as it is timed, see ``folded``.
        data: its test images are what models are measured with.
        quick: time them for a short while.
    """
    with torch.no_grad():
        logits = {name: model(data.test_images) for name, model in models.items()}
    batch = data.test_images[:256]
    calls = {name: partial(model, batch) for name, model in models.items() if name != FLOAT}
    times = with_faster_float(milliseconds({**float_calls(fast, batch), **calls}, quick=quick))
    rows = []
    for name, model in models.items():
        right = logits[name].argmax(1) == data.test_labels
        rows.append(
            {
                "model": name,
                "accuracy, %": 100 * float(right.float().mean()),
                "as float, %": agreement(logits[name], logits[FLOAT]),
                "as torch.ao, %": agreement(logits[name], logits.get(THEIRS)),
                "file, kB": file_kilobytes(model),
                "ms for 256 images": times[name],
            }
        )
    return rows


def unified_diff(kind: str) -> list[str]:
    """What a migration changes in the script of one kind."""
    old, new = HERE / f"torch_ao_{kind}.py", HERE / f"octavo_{kind}.py"
    return list(
        difflib.unified_diff(
            old.read_text(encoding="utf-8").splitlines(),
            new.read_text(encoding="utf-8").splitlines(),
            old.name,
            new.name,
            lineterm="",
            n=1,
        )
    )


def main() -> None:
    made = parser(__doc__, "migrate")
    made.add_argument("--hide-torch-ao", action="store_true", help="as if torch had no torch.ao")
    arguments = made.parse_args()
    prepare(arguments)
    if arguments.hide_torch_ao:
        hide_torch_ao()
    results = Results("migrate", arguments)
    data = digits.load(arguments.seed)
    floats = trained(data, arguments.seed, 4 if arguments.quick else 12)
    if script("torch_ao_static") is None:
        results.say(f"{version()} has no torch.ao: its rows are left out")
    results.value("torch.ao", script("torch_ao_static") is not None)
    for kind in track(KINDS, "quantizing"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces that torch.ao goes
            models = {FLOAT: floats[kind]}
            for name, quantize in recipes(kind, floats[kind], data, arguments).items():
                models[name] = quantize()
            fast = folded(kind, floats[kind])
            results.table(kind, measured(models, fast, data, arguments.quick))
        changes = unified_diff(kind)
        results.say("\n".join(changes))
        results.value(f"{kind}.diff", changes)
        (arguments.output / f"{kind}.diff").write_text("\n".join(changes) + "\n")
    results.write()


if __name__ == "__main__":
    main()
