"""OpenVINO: models with FakeQuantize, which its CPU plugin turns into integer kernels."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

from octavo.bench.cases import (
    ConvCase,
    ConvTransposeCase,
    LinearCase,
    LinearFunctionCase,
    ModelCase,
)
from octavo.bench.cases import conv as conv_data
from octavo.bench.cases import conv_transpose as transposed_data
from octavo.bench.cases import linear as linear_data
from octavo.bench.cases import linear_function as function_data
from octavo.bench.peers import onnx_models
from octavo.bench.peers.base import Peer, Prepared, Unavailable, not_installed

# The first release found to obey it in its own kernels; oneDNN's obey ONEDNN_MAX_CPU_ISA in all.
_OBEYS_OV_CPU_MAX_ISA = (2026, 4)


class OpenVino(Peer):
    """Requests whose input and output are shared with buffers of ours."""

    name = "openvino"
    order = 6
    most_copies = 64

    def missing(self) -> str | None:
        return not_installed("openvino")

    def keeps_to(self, isa: str) -> bool:
        return self.missing() is not None or _version() >= _OBEYS_OV_CPU_MAX_ISA

    def cap_note(self, isa: str) -> str | None:
        if self.keeps_to(isa):
            return None
        return "this release ignores OV_CPU_MAX_ISA: kernels that are not oneDNN's have no cap"

    def prepare_linear(self, case: LinearCase) -> Prepared:
        ov: Any = importlib.import_module("openvino")
        op: Any = importlib.import_module("openvino.opset13")
        values = linear_data.data(case)
        weight = _weight(op, values.weight.numpy(), values.scales.numpy().reshape(-1, 1))
        shape = [case.m, case.k]
        if case.mode == "dynamic":
            x = op.parameter(shape, np.float32)
            y = op.matmul(x, weight, False, True)
            inputs = values.x_float.numpy()
            outputs = np.empty((case.m, case.n), np.float32)
        else:
            x = op.parameter(shape, np.uint8)
            xf = _dequantized(op, x, linear_data.X_SCALE, linear_data.X_ZERO)
            y = op.matmul(xf, weight, False, True)
            y = _quantized(op, y, values.out_scale, linear_data.OUT_ZERO)
            inputs = values.x.numpy()
            outputs = np.empty((case.m, case.n), np.uint8)
        model = ov.Model([y], [x], "linear")
        # One scale for each row of activations, where they are quantized on the way.
        return _request(ov, model, inputs, outputs, case.threads, str(case.k))

    def prepare_linear_function(self, case: LinearFunctionCase) -> Prepared:
        ov: Any = importlib.import_module("openvino")
        op: Any = importlib.import_module("openvino.opset13")
        values = function_data.data(case)
        weight = _weight(op, values.weight.numpy(), values.scales.numpy().reshape(-1, 1))
        x = op.parameter([case.m, case.k], np.uint8)
        xf = _dequantized(op, x, function_data.X_SCALE, function_data.X_ZERO)
        y = op.matmul(xf, weight, False, True)
        slope = op.constant(np.float32(function_data.SLOPE))
        y = op.tanh(y) if case.function == "tanh" else op.prelu(y, slope)
        y = _quantized(op, y, *case.output)
        outputs = np.empty((case.m, case.n), np.uint8)
        return _request(ov, ov.Model([y], [x], "linear"), values.x.numpy(), outputs, case.threads)

    def prepare_conv(self, case: ConvCase) -> Prepared:
        ov: Any = importlib.import_module("openvino")
        op: Any = importlib.import_module("openvino.opset13")
        values = conv_data.data(case)
        weight = _weight(op, values.weight.numpy(), values.scales.numpy().reshape(-1, 1, 1, 1))
        x = op.parameter(list(values.x.shape), np.uint8)
        xf = _dequantized(op, x, conv_data.X_SCALE, conv_data.X_ZERO)
        geometry = [[case.stride] * 2, [case.padding] * 2, [case.padding] * 2, [case.dilation] * 2]
        if case.groups == 1:
            y = op.convolution(xf, weight, *geometry)
        else:
            per_group = case.out // case.groups
            shape = [case.groups, per_group, case.channels // case.groups, case.kernel, case.kernel]
            grouped = op.reshape(weight, op.constant(np.array(shape)), False)
            y = op.group_convolution(xf, grouped, *geometry)
        y = _quantized(op, y, values.out_scale, conv_data.OUT_ZERO)
        inputs = values.x.contiguous().numpy()
        outputs = np.empty(conv_data.output_shape(case), np.uint8)
        return _request(ov, ov.Model([y], [x], "conv"), inputs, outputs, case.threads)

    def prepare_conv_transpose(self, case: ConvTransposeCase) -> Prepared | Unavailable:
        if case.groups != 1:
            return Unavailable("not compared on grouped transposed convolutions")
        ov: Any = importlib.import_module("openvino")
        op: Any = importlib.import_module("openvino.opset13")
        values = transposed_data.data(case)
        weight = _weight(op, values.weight.numpy(), np.float32(transposed_data.W_SCALE))
        x = op.parameter(list(values.x.shape), np.uint8)
        xf = _dequantized(op, x, transposed_data.X_SCALE, transposed_data.X_ZERO)
        padding = [case.padding] * 2
        y = op.convolution_backprop_data(
            xf,
            weight,
            [case.stride] * 2,
            pads_begin=padding,
            pads_end=padding,
            dilations=[case.dilation] * 2,
        )
        y = _quantized(op, y, values.out_scale, transposed_data.OUT_ZERO)
        inputs = values.x.contiguous().numpy()
        outputs = np.empty(transposed_data.output_shape(case), np.uint8)
        return _request(ov, ov.Model([y], [x], "conv"), inputs, outputs, case.threads)

    def prepare_model(self, case: ModelCase) -> Prepared | Unavailable:
        if case.mode == "dynamic":
            return Unavailable("its own dynamic quantization of a network needs NNCF")
        reason = not_installed("onnx", "onnxruntime")
        if reason is not None:
            return Unavailable(f"the tools that quantize the network are {reason}")
        ov: Any = importlib.import_module("openvino")
        model = ov.Core().read_model(onnx_models.quantized(case))
        inputs = case.input().contiguous().numpy()
        outputs = np.empty(case.output_shape(), np.float32)
        return _request(ov, model, inputs, outputs, case.threads)


def _weight(op: Any, values: Any, scales: Any) -> Any:
    return op.multiply(op.convert(op.constant(values), np.float32), op.constant(scales))


def _dequantized(op: Any, x: Any, scale: float, zero: int) -> Any:
    steps = op.subtract(op.convert(x, np.float32), op.constant(np.float32(zero)))
    return op.multiply(steps, op.constant(np.float32(scale)))


def _quantized(op: Any, y: Any, scale: float, zero: int) -> Any:
    low, high = np.float32(-zero * scale), np.float32((255 - zero) * scale)
    steps = op.fake_quantize(y, low, high, np.float32(0), np.float32(255), 256)
    return op.convert(steps, np.uint8)


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in metadata.version("openvino").split(".")[:2])


def _request(
    ov: Any, model: Any, inputs: Any, outputs: Any, threads: int, group: str = "0"
) -> Prepared:
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": "1",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # what is not int8 stays float32
        "ENABLE_CPU_PINNING": False,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": group,
    }
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(ov.Tensor(inputs, shared_memory=True))
    request.set_output_tensor(ov.Tensor(outputs, shared_memory=True))

    def call(_keep: Any = (inputs, outputs)) -> None:  # the request does not keep them alive
        request.infer()

    def result(_: Any) -> Tensor:
        return torch.from_numpy(outputs.copy())

    return Prepared(call, result)


PEERS: list[Peer] = [OpenVino()]
