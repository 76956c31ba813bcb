"""torch's own int8 engines: FBGEMM, oneDNN and QNNPACK behind its quantized dtypes."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from octavo.bench.accuracy.settings import DYNAMIC, Library
from octavo.bench.cases import (
    AccuracyCase,
    AttentionCase,
    ConvCase,
    ConvTransposeCase,
    ElementwiseCase,
    EmbeddingCase,
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
from octavo.bench.models import Parts
from octavo.bench.peers.base import Peer, Prepared, Unavailable

_ENGINES = ("fbgemm", "onednn", "qnnpack")


def _integers(output: Any) -> Tensor:
    plain: Tensor = output.int_repr()
    return plain


def _ao(name: str) -> Any:
    return importlib.import_module(f"torch.ao.{name}")


def _per_tensor(plain: Tensor, scale: float, zero: int) -> Any:
    return torch._make_per_tensor_quantized_tensor(plain, scale, zero)


def _weight(plain: Tensor, scales: Tensor) -> Any:
    """qint8, per output channel."""
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    return torch._make_per_channel_quantized_tensor(plain, scales.double(), zeros, 0)


def _linear_and_function(case: LinearFunctionCase) -> Any:
    fused = _ao("nn.intrinsic.quantized")
    if case.function == "tanh":
        return fused.LinearTanh(case.k, case.n, bias=False)
    return fused.LinearLeakyReLU(case.k, case.n, function_data.SLOPE, bias=False)


class TorchEngine(Peer):
    """One engine of ``torch.backends.quantized``."""

    def __init__(self, name: str, order: int) -> None:
        self.name = name
        self.order = order

    def missing(self) -> str | None:
        if not hasattr(torch, "quint8"):
            return f"torch {torch.__version__} has no quantized dtypes any more"
        if self.name not in torch.backends.quantized.supported_engines:
            return f"this build of torch {torch.__version__} has no engine {self.name}"
        return None

    def applies_to(self, kind: str) -> bool:
        is_left_out = self.name == "qnnpack" and kind == AccuracyCase.kind
        return super().applies_to(kind) and not is_left_out

    def keeps_to(self, isa: str) -> bool:
        return not (self.name == "fbgemm" and isa == "scalar")

    def cap_note(self, isa: str) -> str | None:
        if self.name == "qnnpack":
            return "has SSE4.1 kernels for x86 and nothing newer, on every level"
        if self.name == "fbgemm" and isa == "scalar":
            return "has no level below AVX2"
        if self.name == "fbgemm" and isa == "avx_vnni":
            return "has no AVX-VNNI kernels: AVX2"
        if self.name == "fbgemm" and isa == "amx_int8":
            return "has no AMX kernels: AVX512-VNNI"
        return None

    def _select(self) -> None:
        torch.backends.quantized.engine = self.name

    def prepare(self, case: Any) -> Prepared | Unavailable:
        reason = self.missing()
        if reason is not None:
            return Unavailable(reason)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces the end of its quantized dtypes
            self._select()  # packed weights are those of the engine that is current
            return super().prepare(case)

    def _prepared(
        self, call: Callable[[], Any], result: Callable[[Any], Tensor] = _integers
    ) -> Prepared:
        return Prepared(call, result, self._select)

    def prepare_linear(self, case: LinearCase) -> Prepared:
        values = linear_data.data(case)
        weight = _weight(values.weight, values.scales)
        dynamic = case.mode == "dynamic"
        if case.entry == "module":
            quantized = _ao("nn.quantized.dynamic" if dynamic else "nn.quantized")
            module = quantized.Linear(case.k, case.n, bias_=False, dtype=torch.qint8)
            module.set_weight_bias(weight, None)
            module.scale, module.zero_point = values.out_scale, linear_data.OUT_ZERO
            if dynamic:
                x = values.x_float
                return self._prepared(lambda: module(x), lambda output: output)
            qx = _per_tensor(values.x, linear_data.X_SCALE, linear_data.X_ZERO)
            return self._prepared(lambda: module(qx))
        packed = torch.ops.quantized.linear_prepack(weight, None)
        if dynamic:
            run, x = torch.ops.quantized.linear_dynamic, values.x_float
            # 7 bits where 8 would saturate: what torch's own module asks for.
            reduce_range = self.name != "qnnpack"
            return self._prepared(lambda: run(x, packed, reduce_range), lambda output: output)
        run = torch.ops.quantized.linear
        qx = _per_tensor(values.x, linear_data.X_SCALE, linear_data.X_ZERO)
        return self._prepared(lambda: run(qx, packed, values.out_scale, linear_data.OUT_ZERO))

    def prepare_linear_function(self, case: LinearFunctionCase) -> Prepared:
        values = function_data.data(case)
        weight = _weight(values.weight, values.scales)
        x = _per_tensor(values.x, function_data.X_SCALE, function_data.X_ZERO)
        if self.name == "onednn":  # the one engine that has both in one call
            fused = _linear_and_function(case)
            fused.set_weight_bias(weight, None)
            fused.scale, fused.zero_point = case.output
            return self._prepared(lambda: fused(x))
        quantized = _ao("nn.quantized")
        linear = quantized.Linear(case.k, case.n, bias_=False)
        linear.set_weight_bias(weight, None)
        linear.scale, linear.zero_point = function_data.MIDDLE_SCALE, function_data.MIDDLE_ZERO
        function: Any = torch.tanh  # whose scale and zero point the case has
        if case.function == "leaky_relu":
            function = quantized.LeakyReLU(*case.output, function_data.SLOPE)
        return self._prepared(lambda: function(linear(x)))

    def prepare_conv(self, case: ConvCase) -> Prepared:
        values = conv_data.data(case)
        module = _ao("nn.quantized").Conv2d(
            case.channels,
            case.out,
            case.kernel,
            case.stride,
            case.padding,
            case.dilation,
            case.groups,
            bias=False,
        )
        module.set_weight_bias(_weight(values.weight, values.scales), None)
        module.scale, module.zero_point = values.out_scale, conv_data.OUT_ZERO
        qx = _per_tensor(values.x, conv_data.X_SCALE, conv_data.X_ZERO)
        return self._prepared(lambda: module(qx))

    def prepare_conv_transpose(self, case: ConvTransposeCase) -> Prepared:
        values = transposed_data.data(case)
        module = _ao("nn.quantized").ConvTranspose2d(
            case.channels,
            case.out,
            case.kernel,
            case.stride,
            case.padding,
            groups=case.groups,
            bias=False,
            dilation=case.dilation,
        )
        weight = _per_tensor(values.weight, transposed_data.W_SCALE, 0)
        module.set_weight_bias(weight, None)
        module.scale, module.zero_point = values.out_scale, transposed_data.OUT_ZERO
        qx = _per_tensor(values.x, transposed_data.X_SCALE, transposed_data.X_ZERO)
        return self._prepared(lambda: module(qx))

    def prepare_elementwise(self, case: ElementwiseCase) -> Prepared | Unavailable:
        d = elementwise_data
        values = d.data(case)
        qa = _per_tensor(values.a, d.A_SCALE, d.A_ZERO)
        qb = _per_tensor(values.b, d.B_SCALE, d.B_ZERO)
        x, ops = values.x, torch.ops.quantized
        scale, zero = d.OUT_SCALE, d.OUT_ZERO
        calls: dict[str, Callable[[], Any]] = {
            "quantize": lambda: torch.quantize_per_tensor(x, d.A_SCALE, d.A_ZERO, torch.quint8),
            "dequantize": lambda: qa.dequantize(),
            "relu": lambda: torch.relu(qa),
            "add": lambda: ops.add(qa, qb, scale, zero),
            "add_relu": lambda: ops.add_relu(qa, qb, scale, zero),
            "mul": lambda: ops.mul(qa, qb, scale, zero),
            "sigmoid": lambda: ops.sigmoid(qa, d.UNIT_SCALE, 0),
        }
        if case.operation not in calls:
            return Unavailable("torch has no such operation without a way through float")
        as_float = case.operation == "dequantize"
        result = (lambda output: output) if as_float else _integers
        return self._prepared(calls[case.operation], result)

    def prepare_embedding(self, case: EmbeddingCase) -> Prepared | Unavailable:
        if self.name != "fbgemm":
            return Unavailable("embedding tables are FBGEMM's, whatever the engine")
        d = embedding_data.data(case)
        qparams = torch.stack((d.scales, d.offsets), 1)
        if case.bits == 4:
            qparams = qparams.half()
        packed = torch.cat((d.storage, qparams.view(torch.uint8)), 1)
        flat = d.indices.flatten()
        offsets = torch.arange(0, len(flat), case.length)
        ops: Any = torch.ops.quantized
        name = "byte" if case.bits == 8 else "4bit"
        run = getattr(ops, f"embedding_bag_{name}_rowwise_offsets")
        return self._prepared(lambda: run(packed, flat, offsets), lambda output: output)

    def prepare_image(self, case: ImageCase) -> Prepared:
        d = image_data
        a, b = d.data(case)
        x = _per_tensor(a, d.SCALE, d.ZERO)
        if case.operation == "cat":
            both = [x, _per_tensor(b, d.OTHER_SCALE, d.OTHER_ZERO)]
            run = torch.ops.quantized.cat
            return self._prepared(lambda: run(both, 1, d.SCALE, d.ZERO))
        return self._prepared(lambda: d.CALLS[case.operation](x))

    def prepare_normalize(self, case: NormalizeCase) -> Prepared:
        d = normalize_data.data(case)
        x = _per_tensor(d.x, normalize_data.SCALE, normalize_data.ZERO)
        quantized: Any = torch.ops.quantized
        scale, zero = case.output
        eps, two = normalize_data.EPS, (d.weight, d.bias)
        calls: dict[str, Callable[[], Any]] = {
            "layer_norm": lambda: quantized.layer_norm(x, case.shape[-1:], *two, eps, scale, zero),
            "batch_norm": lambda: quantized.batch_norm2d(
                x, *two, d.mean, d.variance, eps, scale, zero
            ),
            "group_norm": lambda: quantized.group_norm(x, case.groups, *two, eps, scale, zero),
            "instance_norm": lambda: quantized.instance_norm(x, *two, eps, scale, zero),
            "softmax": lambda: quantized.softmax(x, -1, scale, zero),
        }
        return self._prepared(calls[case.operation])

    def prepare_attention(self, case: AttentionCase) -> Prepared | Unavailable:
        supported = torch.backends.quantized.supported_engines
        if self.name != next(name for name in _ENGINES if name in supported):
            return Unavailable("torch's attention is a float one, whatever the engine")
        parts = zip(attention_data.data(case), attention_data.INPUTS, strict=True)
        q, k, v = (_per_tensor(x, *qparams) for x, qparams in parts)
        output = (attention_data.OUT_SCALE, attention_data.OUT_ZERO, torch.quint8)

        def attend() -> Tensor:
            query, key, value = (case.split(x.dequantize()) for x in (q, k, v))
            mixed = nn.functional.scaled_dot_product_attention(query, key, value)
            return torch.quantize_per_tensor(attention_data.joined(mixed), *output)

        return self._prepared(attend)

    def prepare_rnn(self, case: RnnCase) -> Prepared:
        cell = getattr(nn, case.cell)
        quantized = _ao("quantization").quantize_dynamic(nn.Sequential(case.network()), {cell})
        network, x = quantized[0], case.input()
        return self._prepared(lambda: network(x), lambda output: output[0])

    def prepare_model(self, case: ModelCase) -> Prepared:
        ao = _ao("quantization")
        x = case.input()
        if case.mode == "dynamic":
            network = ao.quantize_dynamic(case.network(Parts.plain()), {nn.Linear})
            return self._prepared(lambda: network(x), lambda output: output)
        fx = _ao("quantization.quantize_fx")
        mapping = ao.get_default_qconfig_mapping(self.name)
        usual = mapping.global_qconfig
        # No engine takes transposed convolutions per channel, which onednn's settings ask for.
        per_tensor = ao.QConfig(usual.activation, ao.default_weight_observer)
        mapping.set_object_type(nn.ConvTranspose2d, per_tensor)
        prepared = fx.prepare_fx(case.network(Parts.plain()), mapping, (x,))
        for batch in case.calibration():
            prepared(batch)
        converted = fx.convert_fx(prepared).to(memory_format=torch.channels_last)
        return self._prepared(lambda: converted(x), lambda output: output)

    def prepare_accuracy(self, case: AccuracyCase) -> Prepared | Unavailable:
        if case.model == "sentences" and case.part == "everything" and case.mode == "static":
            return Unavailable("torch.ao's eager mode has no softmax of quantized tensors")
        library = Library(_ao("quantization"), _ao("nn.quantized").FloatFunctional)
        work = case.explicit(library)
        return self._prepared(lambda: _accuracy(self.name, work, library), lambda output: output)


@lru_cache
def _accuracy(engine: str, case: AccuracyCase, library: Library) -> Tensor:
    """Outputs of the network that ``engine``, which is selected, quantizes and runs."""
    ao = library.quantization
    if case.mode == "static":
        network = ao.convert(case.prepared(library))
    else:
        network = _dynamic(case, library)
    return case.outputs(network)


def _dynamic(case: AccuracyCase, library: Library) -> nn.Module:
    settings, network = DYNAMIC[case.settings], case.network(Parts.plain())
    ao = library.quantization
    if settings is None:
        converted: nn.Module = ao.quantize_dynamic(network, {nn.Linear})
        return converted
    activation = ao.default_dynamic_qconfig.activation
    qconfig = ao.QConfig(activation, library.weight_observer(settings.per_channel))
    converted = ao.quantize_dynamic(network, {nn.Linear: qconfig})
    return _with_all_bits(converted) if settings.bits == 8 else converted


class _AllBits(nn.Module):
    """A dynamic Linear with activations of 8 bits; torch's own module always takes 7."""

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self._packed = linear._packed_params._packed_params

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.quantized.linear_dynamic(x, self._packed, False)
        return out


def _with_all_bits(network: nn.Module) -> nn.Module:
    """``network`` with other dynamic Linears, in place."""
    kind = _ao("nn.quantized.dynamic").Linear
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, _AllBits(child))
    return network


PEERS: list[Peer] = [TorchEngine(name, 2 + i) for i, name in enumerate(_ENGINES)]
