"""Octavo itself, called as its users call it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

import octavo
from octavo import backend, ops
from octavo.bench import layers
from octavo.bench.accuracy.settings import DYNAMIC, Library
from octavo.bench.cases import (
    AccuracyCase,
    AttentionCase,
    CalibrationCase,
    ConvCase,
    ConvTransposeCase,
    ElementwiseCase,
    EmbeddingCase,
    FakeQuantizeCase,
    ImageCase,
    LinearCase,
    LinearFunctionCase,
    ModelCase,
    NormalizeCase,
    RnnCase,
)
from octavo.bench.cases import attention as attention_data
from octavo.bench.cases import conv as conv_data
from octavo.bench.cases import conv_transpose as transposed_data
from octavo.bench.cases import elementwise as elementwise_data
from octavo.bench.cases import embedding as embedding_data
from octavo.bench.cases import image as image_data
from octavo.bench.cases import linear as linear_data
from octavo.bench.cases import linear_function as function_data
from octavo.bench.cases import normalize as normalize_data
from octavo.bench.models import Parts, bert, find
from octavo.bench.peers.base import Peer, Prepared, Unavailable
from octavo.bench.peers.graph_flows import TorchExport
from octavo.nn.intrinsic.quantized.dynamic import LinearGELU
from octavo.ops._common import OUT_KIND


def _integers(output: Any) -> Tensor:
    plain: Tensor = output.int_repr()
    return plain


def _lookup(path: str) -> Any:
    """``octavo.<path>``, or None where this version has no such thing."""
    found: Any = octavo
    for name in path.split("."):
        if not hasattr(found, name):
            try:
                importlib.import_module(f"{found.__name__}.{name}")
            except (ImportError, AttributeError):
                return None
        found = getattr(found, name, None)
        if found is None:
            return None
    return found


def _absent(path: str) -> Unavailable:
    return Unavailable(f"this version of Octavo has no octavo.{path}")


def _quantize_linears(network: nn.Module) -> nn.Module:
    """Dynamic linear layers in place of float ones, BERT's first one of two with its GELU."""
    for layer in network.modules():
        if isinstance(layer, bert.Layer):
            pair = nn.Sequential(layer.wide, layer.activation)
            layer.wide = LinearGELU.from_float(pair)  # type: ignore[assignment]
            layer.activation = nn.Identity()  # type: ignore[assignment]
    for parent in network.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Linear:
                setattr(parent, name, octavo.nn.quantized.dynamic.Linear.from_float(child))
    return network


_EXPORT = TorchExport()  # what is quantized where a network has no stubs
_LIBRARY = Library(octavo.quantization, octavo.nn.quantized.FloatFunctional)


@lru_cache
def _accuracy(case: AccuracyCase) -> Tensor:
    """Outputs of the quantized network."""
    tq = _LIBRARY.quantization
    if case.mode == "static":
        network = tq.convert(case.prepared(_LIBRARY))
    else:
        network = tq.quantize_dynamic(case.network(Parts.plain()), _dynamic_spec(case.settings))
    return case.outputs(network)


def _dynamic_spec(settings: str) -> Any:
    """What ``quantize_dynamic`` takes, for a key of ``DYNAMIC``."""
    found = DYNAMIC[settings]
    if found is None:
        return {nn.Linear}
    tq = _LIBRARY.quantization
    activation = tq.PlaceholderObserver.with_args(
        dtype=octavo.quint8, is_dynamic=True, per_tensor=True, reduce_range=found.bits == 7
    )
    return {nn.Linear: tq.QConfig(activation, _LIBRARY.weight_observer(found.per_channel))}


class Octavo(Peer):
    """The subject of every comparison."""

    name = "octavo"
    is_ours = True

    def prepare_linear(self, case: LinearCase) -> Prepared:
        if case.mode == "dynamic":
            return self._dynamic_linear(case)
        values = linear_data.data(case)
        scale, zero = linear_data.X_SCALE, linear_data.X_ZERO
        out_scale, out_zero = values.out_scale, linear_data.OUT_ZERO
        zeros = torch.zeros(case.n, dtype=torch.int64)
        if case.entry == "operator":
            weight = ops.LinearWeight(values.weight, values.scales, zeros, None)
            x, out = values.x, torch.empty((case.m, case.n), dtype=torch.uint8)
            # What a layer costs without Python's part in it: into a tensor that is there already.
            rest = (scale, zero, OUT_KIND[octavo.quint8.name], out_scale, out_zero, False, out)
            return Prepared(
                lambda: weight._run(x, *rest), lambda _: out, kernel=backend.last_kernel
            )
        module = octavo.nn.quantized.Linear(case.k, case.n, bias_=False)
        q_weight = octavo.QTensor.from_int_repr(values.weight, values.scales, zeros, axis=0)
        module.set_weight_bias(q_weight, None)
        module.scale, module.zero_point = out_scale, out_zero
        q = octavo.QTensor.from_int_repr(values.x, scale, zero)
        return Prepared(lambda: module(q), _integers, kernel=backend.last_kernel)

    def _dynamic_linear(self, case: LinearCase) -> Prepared:
        values = linear_data.data(case)
        x, zeros = values.x_float, torch.zeros(case.n, dtype=torch.int64)
        if case.entry == "operator":
            weight = ops.LinearWeight(values.weight, values.scales, zeros, None)
            return Prepared(
                lambda: weight.dynamic_direct(x, False, False, False, False),
                kernel=backend.last_kernel,
            )
        module = octavo.nn.quantized.dynamic.Linear(case.k, case.n, bias_=False)
        q_weight = octavo.QTensor.from_int_repr(values.weight, values.scales, zeros, axis=0)
        module.set_weight_bias(q_weight, None)
        return Prepared(lambda: module(x), kernel=backend.last_kernel)

    def prepare_linear_function(self, case: LinearFunctionCase) -> Prepared:
        values = function_data.data(case)
        fused: Any = octavo.nn.intrinsic.quantized
        if case.function == "tanh":
            module = fused.LinearTanh(case.k, case.n, bias=False)
        else:
            module = fused.LinearLeakyReLU(case.k, case.n, function_data.SLOPE, bias=False)
        zeros = torch.zeros(case.n, dtype=torch.int64)
        weight = octavo.QTensor.from_int_repr(values.weight, values.scales, zeros, axis=0)
        module.set_weight_bias(weight, None)
        module.scale, module.zero_point = case.output
        q = octavo.QTensor.from_int_repr(values.x, function_data.X_SCALE, function_data.X_ZERO)
        return Prepared(lambda: module(q), _integers, kernel=backend.last_kernel)

    def prepare_conv(self, case: ConvCase) -> Prepared:
        values = conv_data.data(case)
        module = octavo.nn.quantized.Conv2d(
            case.channels,
            case.out,
            case.kernel,
            case.stride,
            case.padding,
            case.dilation,
            case.groups,
            bias=False,
        )
        zeros = torch.zeros(case.out, dtype=torch.int64)
        q_weight = octavo.QTensor.from_int_repr(values.weight, values.scales, zeros, axis=0)
        module.set_weight_bias(q_weight, None)
        module.scale, module.zero_point = values.out_scale, conv_data.OUT_ZERO
        q = octavo.QTensor.from_int_repr(values.x, conv_data.X_SCALE, conv_data.X_ZERO)
        return Prepared(lambda: module(q), _integers, kernel=backend.last_kernel)

    def prepare_conv_transpose(self, case: ConvTransposeCase) -> Prepared:
        values = transposed_data.data(case)
        module = octavo.nn.quantized.ConvTranspose2d(
            case.channels,
            case.out,
            case.kernel,
            case.stride,
            case.padding,
            groups=case.groups,
            bias=False,
            dilation=case.dilation,
        )
        weight = octavo.QTensor.from_int_repr(values.weight, transposed_data.W_SCALE, 0)
        module.set_weight_bias(weight, None)
        module.scale, module.zero_point = values.out_scale, transposed_data.OUT_ZERO
        x_qparams = (transposed_data.X_SCALE, transposed_data.X_ZERO)
        q = octavo.QTensor.from_int_repr(values.x, *x_qparams)
        return Prepared(lambda: module(q), _integers, kernel=backend.last_kernel)

    def prepare_elementwise(self, case: ElementwiseCase) -> Prepared:
        d = elementwise_data
        values = d.data(case)
        x, plain = values.x, values.a
        a = octavo.QTensor.from_int_repr(values.a, d.A_SCALE, d.A_ZERO)
        b = octavo.QTensor.from_int_repr(values.b, d.B_SCALE, d.B_ZERO)
        nnq: Any = octavo.nn.quantized
        functional, sigmoid = nnq.QFunctional(), nnq.Sigmoid(d.UNIT_SCALE, 0)
        functional.scale, functional.zero_point = d.OUT_SCALE, d.OUT_ZERO
        calls: dict[str, Callable[[], Any]] = {
            "quantize": lambda: octavo.quantize_per_tensor(x, d.A_SCALE, d.A_ZERO, octavo.quint8),
            "dequantize": lambda: a.dequantize(),
            "requantize": lambda: ops.requantize(
                plain, d.A_SCALE, d.A_ZERO, d.OUT_SCALE, d.OUT_ZERO, octavo.quint8
            ),
            "relu": lambda: torch.relu(a),
            "add": lambda: functional.add(a, b),
            "add_relu": lambda: functional.add_relu(a, b),
            "mul": lambda: functional.mul(a, b),
            "sigmoid": lambda: sigmoid(a),
        }
        is_plain = case.operation in ("dequantize", "requantize")
        return Prepared(calls[case.operation], (lambda out: out) if is_plain else _integers)

    def prepare_embedding(self, case: EmbeddingCase) -> Prepared | Unavailable:
        if _lookup("ops.EmbeddingWeight") is None:
            return _absent("ops.EmbeddingWeight")
        d = embedding_data.data(case)
        dtype = octavo.quint8 if case.bits == 8 else octavo.quint4x2
        weight = ops.EmbeddingWeight(d.storage, d.scales, -d.offsets / d.scales, None, dtype)
        if case.length == 1:
            flat = d.indices.flatten()
            return Prepared(lambda: ops.embedding(weight, flat))
        return Prepared(lambda: ops.embedding_bag(weight, d.indices, mode="sum"))

    def prepare_image(self, case: ImageCase) -> Prepared:
        d = image_data
        a, b = d.data(case)
        x = octavo.QTensor.from_int_repr(a, d.SCALE, d.ZERO)
        if case.operation == "cat":
            y = octavo.QTensor.from_int_repr(b, d.OTHER_SCALE, d.OTHER_ZERO)
            return Prepared(lambda: torch.cat([x, y], 1), _integers)
        return Prepared(lambda: d.CALLS[case.operation](x), _integers)

    def prepare_normalize(self, case: NormalizeCase) -> Prepared:
        d = normalize_data.data(case)
        x = octavo.QTensor.from_int_repr(d.x, normalize_data.SCALE, normalize_data.ZERO)
        nnq: Any = octavo.nn.quantized
        output, rest, size = case.output, (d.weight, d.bias, *case.output), len(d.weight)
        if case.operation == "layer_norm":
            module = nnq.LayerNorm(size, *rest, normalize_data.EPS)
        elif case.operation == "group_norm":
            module = nnq.GroupNorm(case.groups, size, *rest, normalize_data.EPS)
        elif case.operation == "instance_norm":
            module = nnq.InstanceNorm2d(size, *rest, normalize_data.EPS)
        elif case.operation == "softmax":
            module = nnq.Softmax(-1, *output)
        else:
            module = nnq.BatchNorm2d(size, normalize_data.EPS)
            module.scale, module.zero_point = output
            with torch.inference_mode(False):  # ordinary tensors, as modules have that were loaded
                module.weight, module.bias = d.weight.clone(), d.bias.clone()
                module.running_mean, module.running_var = d.mean.clone(), d.variance.clone()
        return Prepared(lambda: module(x), _integers)

    def prepare_attention(self, case: AttentionCase) -> Prepared:
        d = attention_data
        module = octavo.nn.quantized.ScaledDotProductAttention(
            d.OUT_SCALE, d.OUT_ZERO, heads=case.heads
        )
        parts = zip(d.data(case), d.INPUTS, strict=True)
        q, k, v = (octavo.QTensor.from_int_repr(x, *qparams) for x, qparams in parts)
        return Prepared(lambda: module(q, k, v), _integers, kernel=backend.last_kernel)

    def prepare_fake_quantize(self, case: FakeQuantizeCase) -> Prepared:
        return Prepared(case.work(case.module(octavo.quantization, octavo)), torch.stack)

    def prepare_calibration(self, case: CalibrationCase) -> Prepared:
        def result(qparams: tuple[Tensor, Tensor]) -> Tensor:
            return torch.stack([part.double() for part in qparams])

        return Prepared(lambda: case.work(octavo.quantization), result)

    def prepare_rnn(self, case: RnnCase) -> Prepared | Unavailable:
        path = f"nn.quantized.dynamic.{case.cell}"
        quantized = _lookup(path)
        if quantized is None:
            return _absent(path)
        network = quantized.from_float(case.network())
        x = case.input()
        return Prepared(lambda: network(x), lambda output: output[0], kernel=backend.last_kernel)

    def prepare_model(self, case: ModelCase) -> Prepared | Unavailable:
        tq: Any = octavo.quantization
        x = case.input()
        if case.mode == "dynamic":
            network = _quantize_linears(case.network(Parts.plain()))
            return Prepared(lambda: network(x), layers=lambda: layers.measure(network, x))
        if not case.has_stubs:
            return _EXPORT.prepare_model(case)
        parts = Parts(tq.QuantStub, tq.DeQuantStub, octavo.nn.quantized.FloatFunctional)
        network = case.network(parts)
        network = tq.fuse_modules(network, find(case.model).fusable(network))
        network.qconfig = tq.get_default_qconfig()
        prepared = tq.prepare(network.to(memory_format=torch.channels_last))
        for batch in case.calibration():
            prepared(batch)
        converted = tq.convert(prepared)
        return Prepared(lambda: converted(x), layers=lambda: layers.measure(converted, x))

    def prepare_accuracy(self, case: AccuracyCase) -> Prepared:
        return Prepared(lambda: _accuracy(case.explicit(_LIBRARY)))


OCTAVO: Peer = Octavo()
