"""An int8 checkpoint that torch.ao made, run by Octavo: no data, no calibration, no torch.ao.

``checkpoints/torch_ao_static.pt`` is what ``--make`` writes where torch has torch.ao: the state
dict of the network of ``torch_ao_static.py``, quantized, and the logits that torch.ao computed for
the test images. torch itself reads the file (``weights_only=True``), as long as it has quantized
tensors. The first table counts the logits that are the same integers; where torch has torch.ao,
others do so for its engines, layer by layer. What comes out is saved as plain tensors, which need
nothing of torch's quantization.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

import digits
import octavo_static
import torch
from peer import hide_torch_ao, script, version
from torch import Tensor, nn

import octavo
import octavo.quantization as tq

HERE = Path(__file__).parent
CHECKPOINT = HERE / "checkpoints" / "torch_ao_static.pt"
sys.path.insert(0, str(HERE.parent))

from shared import Results, file_bytes, parser, prepare, torch_engine  # noqa: E402

LAYERS = ("quant", "conv", "branch", "add", "hidden", "classify")
WHY = (
    "QNNPACK rounds biases to integers, which moves a result now and then by a step; fbgemm and "
    "Octavo add them in float; oneDNN (and x86, which uses it) scales in another order. torch adds "
    "the zero point before a tie is rounded, Octavo after that, which differs where it is odd; "
    "that of this checkpoint's input is even"
)


def make(path: Path, seed: int) -> None:
    """Trains, quantizes with torch.ao, and writes its state dict and logits.

    Raises:
        SystemExit: torch has no torch.ao.
    """
    theirs = script("torch_ao_static")
    if theirs is None:
        raise SystemExit(f"--make needs torch.ao, which {version()} lacks")
    torch.manual_seed(seed)
    data = digits.load(seed)
    int8 = theirs.quantize(digits.train(theirs.Net(), data), data)
    with torch.no_grad():
        logits = int8(data.test_images)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "torch": str(torch.__version__),
        "engine": torch.backends.quantized.engine,
        "seed": seed,
    }
    torch.save({"state_dict": int8.state_dict(), "logits": logits, **about}, path)


def read(path: Path) -> dict[str, Any]:
    """What ``make`` wrote, without running code of the file.

    Raises:
        SystemExit: this torch has no quantized tensors, so that it cannot read the file.
    """
    if not hasattr(torch, "_make_per_tensor_quantized_tensor"):
        raise SystemExit(
            f"{version()} has no quantized tensors and cannot read {path.name}. Run this script "
            "with an older torch, and take its int8.pt, which any torch reads"
        )
    return torch.load(path, weights_only=True)


def load(state_dict: dict[str, Any]) -> nn.Module:
    """The int8 model: the float network, fused as it was, with the state of torch.ao's."""
    return tq.load_torch_ao(architecture(), state_dict)


def reload(path: Path) -> nn.Module:
    """The same model from a file of plain tensors."""
    return tq.load_quantized(architecture(), path)


def architecture() -> nn.Module:
    """The float network, fused; its weights do not matter."""
    return tq.fuse_modules(octavo_static.Net().eval(), octavo_static.FUSED)


def steps_apart(ours: Tensor, theirs: Tensor) -> dict[str, Any]:
    """How many integers are equal, differ by one, and by more."""
    apart = (ours.int() - theirs.int()).abs()
    return {
        "values": apart.numel(),
        "equal": int((apart == 0).sum()),
        "one step": int((apart == 1).sum()),
        "more": int((apart > 1).sum()),
    }


def as_steps(logits: Tensor, model: nn.Module) -> Tensor:
    """The integers that dequantized logits stand for."""
    return torch.round(logits / model.classify.scale)


def torch_model(theirs: Any, state_dict: dict[str, Any]) -> nn.Module:
    """The checkpoint in torch.ao's own way: prepare and convert without data, then load."""
    fused = theirs.tq.fuse_modules(theirs.Net().eval(), theirs.FUSED)
    fused.qconfig = theirs.tq.get_default_qconfig("x86")
    model = theirs.tq.convert(theirs.tq.prepare(fused))
    model.load_state_dict(state_dict)
    return model


def as_octavo(tensor: Tensor) -> Any:
    """A quantized tensor of torch as Octavo's; others as they are."""
    if not tensor.is_quantized:
        return tensor
    return octavo.QTensor.from_int_repr(tensor.int_repr(), tensor.q_scale(), tensor.q_zero_point())


def layer_steps(theirs: nn.Module, ours: nn.Module, images: Tensor) -> dict[str, dict[str, Any]]:
    """Each layer beside its counterpart, with the inputs that torch.ao's model has there."""
    calls: dict[str, tuple[Any, Any]] = {}
    for name in LAYERS:
        getattr(theirs, name).register_forward_hook(
            lambda module, args, out, name=name: calls.__setitem__(name, (args, out))
        )
    add_relu = theirs.add.add_relu

    def seen(*args: Tensor) -> Tensor:  # a method, which hooks do not see
        calls["add"] = (args, add_relu(*args))
        return calls["add"][1]

    theirs.add.add_relu = seen
    theirs(images)
    found = {}
    for name in LAYERS:
        args, out = calls[name]
        layer = ours.add.add_relu if name == "add" else getattr(ours, name)
        found[name] = steps_apart(layer(*map(as_octavo, args)).int_repr(), out.int_repr())
    return found


def compare_engines(
    results: Results, state: dict[str, Any], ours: nn.Module, images: Tensor
) -> None:
    """Tables of what torch.ao's engines compute, beside Octavo."""
    theirs = script("torch_ao_static")
    if theirs is None:
        results.say(f"{version()} has no torch.ao: no tables of its engines")
        return
    expected, whole, logits = as_steps(ours(images), ours), [], []
    differing: dict[str, dict[str, Any]] = {}
    for name in torch.backends.quantized.supported_engines:
        if name == "none":
            continue
        with torch_engine(name):
            model = torch_model(theirs, state)
            logits.append({"engine": name, **steps_apart(expected, as_steps(model(images), ours))})
            whole.append(tq.from_torch_ao(model))
            for layer, steps in layer_steps(model, ours, images).items():
                row = differing.setdefault(layer, {"layer": layer, "values": steps["values"]})
                row[name] = steps["one step"]
                row[f"{name}, more"] = steps["more"]
    results.table("logits of torch's engines, beside Octavo's", logits)
    title = "values one step from Octavo's, each layer with the same inputs"
    results.table(title, list(differing.values()), WHY)
    same = all(torch.equal(model(images), ours(images)) for model in whole)
    results.value("from_torch_ao has the bits of load_torch_ao", same)
    results.say(f"from_torch_ao(model) and load_torch_ao(net, state_dict): same bits: {same}")


def show(arguments: argparse.Namespace) -> None:
    """Loads the checkpoint, compares, and saves it anew."""
    results = Results("load_checkpoint", arguments)
    saved = read(arguments.checkpoint)
    data = digits.load(saved["seed"])
    images = data.test_images[:100] if arguments.quick else data.test_images
    ours = load(saved["state_dict"])
    results.say(f"{arguments.checkpoint.name}: of torch {saved['torch']}, {saved['engine']}")
    with torch.no_grad():
        logits = ours(images)
        wanted = saved["logits"][: len(images)]
        row = steps_apart(as_steps(logits, ours), as_steps(wanted, ours))
        results.table("logits in the file, beside Octavo's", [{"what": "logits", **row}])
        same = float((logits.argmax(1) == wanted.argmax(1)).float().mean())
        results.value("same digits", same)
        accuracy = digits.accuracy(ours, data)
        results.value("accuracy", accuracy)
        results.say(f"same digits: {100 * same:.2f} %; accuracy {accuracy:.4f}")
        compare_engines(results, saved["state_dict"], ours, images)
        plain = arguments.output / "int8.pt"
        torch.save(ours.state_dict(), plain)
        again = torch.equal(reload(plain)(images), logits)
    results.value("int8.pt has the same bits", again)
    results.value(
        "bytes", {"torch.ao": file_bytes(arguments.checkpoint), "int8.pt": file_bytes(plain)}
    )
    results.say(f"written: {plain}: plain tensors, which give the same bits: {again}")
    results.write()


def main() -> None:
    made = parser(__doc__, "load_checkpoint")
    made.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="what to load")
    made.add_argument("--make", action="store_true", help="write the checkpoint, with torch.ao")
    made.add_argument("--hide-torch-ao", action="store_true", help="as if torch had no torch.ao")
    arguments = made.parse_args()
    prepare(arguments)
    if arguments.hide_torch_ao:
        hide_torch_ao()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that quantized tensors go
        if arguments.make:
            make(arguments.checkpoint, arguments.seed)
        show(arguments)


if __name__ == "__main__":
    main()
