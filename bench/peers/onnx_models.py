"""Whole networks as quantized ONNX files: exported by torch, quantized by ONNX Runtime's tools.

Not a peer itself: :mod:`octavo.bench.peers.ort` and :mod:`octavo.bench.peers.openvino` run them.
"""

from __future__ import annotations

import importlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from octavo.bench.cases import ModelCase
from octavo.bench.models import Parts

_OPSET = 17
_folder: Path | None = None


def keep_in(folder: Path) -> None:
    """Other processes that use the same folder need not quantize the same network again."""
    global _folder
    _folder = folder


@lru_cache(maxsize=1)
def quantized(case: ModelCase) -> bytes:
    """The network with input ``x`` and output ``y``, int8 weights per channel: in QDQ form with
    uint8 activations where static, with DynamicQuantizeLinear where dynamic."""
    kept = _folder / f"{case.model}-{case.batch}-{case.size}.onnx" if _folder else None
    if kept is not None and kept.exists():
        return kept.read_bytes()
    model = _quantize(case)
    if kept is not None:
        kept.write_bytes(model)
    return model


def _quantize(case: ModelCase) -> bytes:
    tools: Any = importlib.import_module("onnxruntime.quantization")
    with tempfile.TemporaryDirectory() as folder, _quiet():
        exported, prepared, done = (str(Path(folder, f"{i}.onnx")) for i in range(3))
        _export(case, exported)
        tools.quant_pre_process(exported, prepared)
        common = {"per_channel": True, "weight_type": tools.QuantType.QInt8}
        if case.mode == "dynamic":
            tools.quantize_dynamic(prepared, done, **common)
        else:
            activations = tools.QuantType.QUInt8
            tools.quantize_static(
                prepared, done, _Reader(case), activation_type=activations, **common
            )
        return Path(done).read_bytes()


def _export(case: ModelCase, path: str) -> None:
    buffer = io.BytesIO()
    torch.onnx.export(
        case.network(Parts.plain()),
        (case.input(),),
        buffer,  # type: ignore[arg-type]  # a path would put large weights into files of their own
        dynamo=False,  # the other exporter needs one more package, for the same graph
        opset_version=_OPSET,
        input_names=["x"],
        output_names=["y"],
    )
    Path(path).write_bytes(buffer.getvalue())


class _Reader:
    """Calibration data as ONNX Runtime's tools read it."""

    def __init__(self, case: ModelCase) -> None:
        self._batches: Iterator[Any] = iter(case.calibration())

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"x": batch.contiguous().numpy()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tools' advice on how to quantize."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
