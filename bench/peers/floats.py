"""torch's float layers: what users have before they quantize."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
from octavo.bench.cases import accuracy as accuracy_data
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


class Float(Peer):
    """One dtype of torch's float operators."""

    def __init__(self, name: str, dtype: torch.dtype, order: int) -> None:
        self.name = name
        self.order = order
        self._dtype = dtype

    def prepare_linear(self, case: LinearCase) -> Prepared:
        values = linear_data.data(case)
        weight = values.weight_float().to(self._dtype)
        x = values.x_float.to(self._dtype)
        if case.entry == "operator":
            return Prepared(lambda: F.linear(x, weight), Tensor.float)
        layer = nn.Linear(case.k, case.n, bias=False)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        return Prepared(lambda: layer(x), Tensor.float)

    def prepare_linear_function(self, case: LinearFunctionCase) -> Prepared:
        values = function_data.data(case)
        linear = nn.Linear(case.k, case.n, bias=False)
        weight = values.weight_float().to(self._dtype)
        linear.weight = nn.Parameter(weight, requires_grad=False)
        function = nn.Tanh() if case.function == "tanh" else nn.LeakyReLU(function_data.SLOPE)
        layers, x = nn.Sequential(linear, function), values.x_float().to(self._dtype)
        return Prepared(lambda: layers(x), Tensor.float)

    def prepare_conv(self, case: ConvCase) -> Prepared:
        values = conv_data.data(case)
        layer = nn.Conv2d(
            case.channels,
            case.out,
            case.kernel,
            case.stride,
            case.padding,
            case.dilation,
            case.groups,
            bias=False,
        )
        layer.weight = nn.Parameter(values.weight_float().to(self._dtype), requires_grad=False)
        x = values.x_float().to(self._dtype)
        return Prepared(lambda: layer(x), Tensor.float)

    def prepare_conv_transpose(self, case: ConvTransposeCase) -> Prepared:
        values = transposed_data.data(case)
        weight = values.weight_float().to(self._dtype)
        x = values.x_float().to(self._dtype)
        geometry = (case.stride, case.padding, 0, case.groups, case.dilation)
        return Prepared(lambda: F.conv_transpose2d(x, weight, None, *geometry), Tensor.float)

    def prepare_attention(self, case: AttentionCase) -> Prepared:
        q, k, v = (x.to(self._dtype) for x in attention_data.floats(case, torch.float32))
        run = F.scaled_dot_product_attention
        return Prepared(lambda: run(q, k, v), lambda out: attention_data.joined(out.float()))

    def prepare_rnn(self, case: RnnCase) -> Prepared:
        network = case.network().to(self._dtype)
        x = case.input().to(self._dtype)
        return Prepared(lambda: network(x), lambda output: output[0].float())

    def prepare_model(self, case: ModelCase) -> Prepared:
        network = case.network(Parts.plain()).to(self._dtype)
        x = case.input()
        if x.is_floating_point():
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            x = x.to(self._dtype)
        return Prepared(lambda: network(x), Tensor.float)


class Float32(Float):
    """Has the element-wise operations too: the same ones on four times the bytes."""

    def keeps_to(self, isa: str) -> bool:
        has_mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        return not has_mkl or "Intel" in _vendor()

    def cap_note(self, isa: str) -> str | None:
        if self.keeps_to(isa):
            return None
        return "matrix products come from MKL, which obeys its cap on Intel CPUs only"

    def prepare_elementwise(self, case: ElementwiseCase) -> Prepared | Unavailable:
        d = elementwise_data
        values = d.data(case)
        a = (values.a.float() - d.A_ZERO) * d.A_SCALE
        b = (values.b.float() - d.B_ZERO) * d.B_SCALE
        calls: dict[str, Callable[[], Tensor]] = {
            "relu": lambda: torch.relu(a),
            "add": lambda: a + b,
            "add_relu": lambda: torch.relu(a + b),
            "mul": lambda: a * b,
            "sigmoid": lambda: torch.sigmoid(a),
        }
        if case.operation not in calls:
            return Unavailable("float32 has no such operation")
        return Prepared(calls[case.operation])

    def prepare_normalize(self, case: NormalizeCase) -> Prepared:
        d = normalize_data.data(case)
        x = d.values()
        return Prepared(lambda: normalize_data.run(case, x, d))

    def prepare_embedding(self, case: EmbeddingCase) -> Prepared:
        table = embedding_data.values(case, torch.arange(case.rows))
        indices = embedding_data.data(case).indices
        return Prepared(lambda: F.embedding_bag(indices, table, mode="sum"))

    def prepare_image(self, case: ImageCase) -> Prepared:
        d = image_data
        a, b = d.data(case)
        x, y = (a.float() - d.ZERO) * d.SCALE, (b.float() - d.OTHER_ZERO) * d.OTHER_SCALE
        if case.operation == "cat":
            return Prepared(lambda: torch.cat([x, y], 1))
        return Prepared(lambda: d.CALLS[case.operation](x))

    def prepare_accuracy(self, case: AccuracyCase) -> Prepared:
        return Prepared(lambda: accuracy_data.reference(case))


def _vendor() -> str:
    try:
        with open("/proc/cpuinfo") as info:
            return next((line for line in info if line.startswith("vendor_id")), "")
    except OSError:
        return ""


PEERS: list[Peer] = [Float32("fp32", torch.float32, 0), Float("bf16", torch.bfloat16, 1)]
