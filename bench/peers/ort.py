"""ONNX Runtime: models in its QDQ form, so that its optimizer chooses the integer kernels."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from octavo.bench.cases import ConvCase, LinearCase, LinearFunctionCase, ModelCase
from octavo.bench.cases import conv as conv_data
from octavo.bench.cases import linear as linear_data
from octavo.bench.cases import linear_function as function_data
from octavo.bench.peers import onnx_models
from octavo.bench.peers.base import Peer, Prepared, not_installed

_OPSET, _IR_VERSION = 13, 8


class _Graph:
    """A model of one layer under construction: constants and nodes."""

    def __init__(self) -> None:
        self.onnx: Any = importlib.import_module("onnx")
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def constant(self, name: str, values: Any) -> str:
        array = np.ascontiguousarray(values)
        self._constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def node(self, operation: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(self.onnx.helper.make_node(operation, inputs, [output], **attributes))
        return output

    def input_from(self, scale: float, zero: int) -> str:
        """The dequantized input ``x``."""
        qparams = [self.constant("xs", np.float32(scale)), self.constant("xz", np.uint8(zero))]
        return self.node("DequantizeLinear", ["x", *qparams], "xf")

    def weight(self, values: Any, scales: Any, axis: int) -> str:
        zeros = self.constant("wz", np.zeros(len(scales), np.int8))
        parts = [self.constant("w", values), self.constant("ws", scales), zeros]
        return self.node("DequantizeLinear", parts, "wf", axis=axis)

    def output_to(self, value: str, scale: float, zero: int) -> None:
        """The quantized output ``y``."""
        qparams = [self.constant("ys", np.float32(scale)), self.constant("yz", np.uint8(zero))]
        self.node("QuantizeLinear", [value, *qparams], "y")

    def model(self, x: Any, y: Any, domains: dict[str, int]) -> bytes:
        """Serialized; ``x`` and ``y`` are arrays of the input's and output's shape and type."""
        helper = self.onnx.helper
        ends = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in (("x", x), ("y", y))
        ]
        graph = helper.make_graph(self._nodes, "layer", ends[:1], ends[1:], self._constants)
        opsets = [helper.make_opsetid(name, version) for name, version in domains.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        serialized: bytes = model.SerializeToString()
        return serialized


def _session(model: bytes, threads: int) -> Any:
    ort: Any = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Its threads stop spinning when a call returns; otherwise they would disturb whoever runs next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OnnxRuntime(Peer):
    """Sessions whose input and output are bound to buffers once, as its fastest users do."""

    name = "ort"
    order = 5
    most_copies = 64

    def missing(self) -> str | None:
        return not_installed("onnx", "onnxruntime")

    def keeps_to(self, isa: str) -> bool:
        return False

    def cap_note(self, isa: str) -> str | None:
        return (
            "has no way to limit its instruction set (no environment variable, no session option): "
            "it uses what the CPU has, on every level"
        )

    def prepare_linear(self, case: LinearCase) -> Prepared:
        values = linear_data.data(case)
        weight, scales = values.weight.numpy().T, values.scales.numpy()
        graph = _Graph()
        if case.mode == "dynamic":
            constants = [
                graph.constant("w", weight),
                graph.constant("ws", scales),
                graph.constant("wz", np.zeros(case.n, np.int8)),
            ]
            graph.node("DynamicQuantizeMatMul", ["x", *constants], "y", domain="com.microsoft")
            x, y = values.x_float.numpy(), np.empty((case.m, case.n), np.float32)
        else:
            xf = graph.input_from(linear_data.X_SCALE, linear_data.X_ZERO)
            wf = graph.weight(weight, scales, 1)
            yf = graph.node("MatMul", [xf, wf], "yf")
            graph.output_to(yf, values.out_scale, linear_data.OUT_ZERO)
            x, y = values.x.numpy(), np.empty((case.m, case.n), np.uint8)
        return self._bound(graph, x, y, case.threads)

    def prepare_linear_function(self, case: LinearFunctionCase) -> Prepared:
        values = function_data.data(case)
        graph = _Graph()
        xf = graph.input_from(function_data.X_SCALE, function_data.X_ZERO)
        wf = graph.weight(values.weight.numpy().T, values.scales.numpy(), 1)
        yf = graph.node("MatMul", [xf, wf], "yf")
        if case.function == "tanh":
            result = graph.node("Tanh", [yf], "fy")
        else:
            result = graph.node("LeakyRelu", [yf], "fy", alpha=function_data.SLOPE)
        graph.output_to(result, *case.output)
        return self._bound(
            graph, values.x.numpy(), np.empty((case.m, case.n), np.uint8), case.threads
        )

    def prepare_conv(self, case: ConvCase) -> Prepared:
        values = conv_data.data(case)
        graph = _Graph()
        xf = graph.input_from(conv_data.X_SCALE, conv_data.X_ZERO)
        wf = graph.weight(values.weight.numpy(), values.scales.numpy(), 0)
        yf = graph.node(
            "Conv",
            [xf, wf],
            "yf",
            kernel_shape=[case.kernel] * 2,
            strides=[case.stride] * 2,
            pads=[case.padding] * 4,
            dilations=[case.dilation] * 2,
            group=case.groups,
        )
        graph.output_to(yf, values.out_scale, conv_data.OUT_ZERO)
        x = values.x.contiguous().numpy()
        y = np.empty(conv_data.output_shape(case), np.uint8)
        return self._bound(graph, x, y, case.threads)

    def prepare_model(self, case: ModelCase) -> Prepared:
        x = case.input().contiguous().numpy()
        y = np.empty(case.output_shape(), np.float32)
        return self._run(onnx_models.quantized(case), x, y, case.threads)

    def _bound(self, graph: _Graph, x: Any, y: Any, threads: int) -> Prepared:
        return self._run(graph.model(x, y, {"": _OPSET, "com.microsoft": 1}), x, y, threads)

    def _run(self, model: bytes, x: Any, y: Any, threads: int) -> Prepared:
        ort: Any = importlib.import_module("onnxruntime")
        session = _session(model, threads)
        out = ort.OrtValue.ortvalue_from_numpy(y)
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
        binding.bind_ortvalue_output("y", out)

        def call(_keep: Any = (x, y)) -> None:  # the binding does not keep its buffers alive
            session.run_with_iobinding(binding)

        def result(_: Any) -> Tensor:
            return torch.from_numpy(out.numpy().copy())

        return Prepared(call, result)


PEERS: list[Peer] = [OnnxRuntime()]
