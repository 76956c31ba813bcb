"""A peer that writes into arrays of numpy holds them for as long as it can be called."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np

from octavo.bench.peers import openvino


class _Request:
    """Keeps its tensors by address, as OpenVINO's does: no reference to them."""

    def set_input_tensor(self, tensor: Any) -> None:
        self.input = weakref.ref(tensor)

    def set_output_tensor(self, tensor: Any) -> None:
        self.output = weakref.ref(tensor)

    def infer(self) -> None:
        x, y = self.input(), self.output()
        assert x is not None, "the input was freed"
        assert y is not None, "the output was freed"
        y[...] = 2 * x


class _Core:
    def compile_model(self, *_: Any) -> Any:
        return SimpleNamespace(create_infer_request=_Request)


def test_openvino_call_outlives_the_rest() -> None:
    library = SimpleNamespace(Core=_Core, Tensor=lambda array, shared_memory: array)
    outputs = np.zeros(3, np.float32)
    written = weakref.ref(outputs)
    prepared = openvino._request(library, None, np.arange(3, dtype=np.float32), outputs, 1)
    call = prepared.call
    del prepared, outputs
    gc.collect()
    call()
    kept = written()
    assert kept is not None
    assert kept.tolist() == [0, 2, 4]
