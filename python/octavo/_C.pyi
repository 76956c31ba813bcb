"""Octavo's kernels. Addresses are those of Tensor.data_ptr().

Use octavo.ops and octavo.backend instead."""

from collections.abc import Sequence
from typing import Any

import torch

__version__: str

# (depth, height, width); 1 or 0 for those that a tensor lacks.
_Spatial = tuple[int, int, int]

def connect(
    qtensor: type, quint8: object, qint8: object, qint32: object, per_tensor_affine: object, /
) -> None: ...
def tensor_access() -> str: ...
def set_tensor_access(name: str, /) -> bool: ...
def quantize_direct(
    x: object, scale: object, zero_point: object, dtype: object, /
) -> torch.Tensor | None: ...
def dequantize_direct(q: object, /) -> torch.Tensor | None: ...
def fake_quantize_direct(
    x: object,
    rounds: bool,
    keeps_mask: bool,
    axis: int | None,
    scale: object,
    zero_point: object,
    quant_min: int,
    quant_max: int,
    observes: bool,
    min_val: object,
    max_val: object,
    eps: object,
    averaging_constant: object,
    observer_min: object,
    observer_max: object,
    symmetric_zero_point: int | None,
    /,
) -> tuple[torch.Tensor | None, torch.Tensor | None, int] | None: ...
def observe_direct(
    x: object,
    axis: int | None,
    min_val: object,
    max_val: object,
    averaging_constant: object,
    /,
) -> int | None: ...
def extremes_direct(x: object, /) -> tuple[float, float, int] | None: ...
def count_bins_direct(x: object, bins: int, low: float, high: float, /) -> torch.Tensor | None: ...
def move_counts_direct(
    counts: object, middles: object, borders: object, /
) -> torch.Tensor | None: ...
def masked_gradient_direct(gradient: object, inside: object, /) -> torch.Tensor | None: ...
def clamp_direct(q: object, lo: object, hi: object, /) -> Any: ...
def add_direct(
    a: object, b: object, scale: object, zero_point: object, dtype: object, relu: bool, /
) -> Any: ...
def mul_direct(
    a: object, b: object, scale: object, zero_point: object, dtype: object, relu: bool, /
) -> Any: ...
def embedding_direct(table: object, indices: object, /) -> torch.Tensor | None: ...
def embedding_bag_direct(
    table: object,
    indices: object,
    offsets: object,
    mode: object,
    weights: object,
    include_last_offset: object,
    padding_idx: object,
    /,
) -> torch.Tensor | None: ...
def cat_direct(
    tensors: object, dim: object, scale: object, zero_point: object, dtype: object, /
) -> Any: ...
def lookup_direct(
    q: object, table: object, scale: object, zero_point: object, qdtype: object, /
) -> Any: ...
def channel_affine_direct(
    q: object,
    constants: object,
    channels: object,
    relu: object,
    scale: object,
    zero_point: object,
    qdtype: object,
    /,
) -> Any: ...
def prelu_direct(
    q: object, slope: object, scale: object, zero_point: object, qdtype: object, /
) -> Any: ...
def layer_norm_direct(
    q: object,
    normalized_shape: object,
    weight: object,
    bias: object,
    eps: object,
    scale: object,
    zero_point: object,
    qdtype: object,
    /,
) -> Any: ...
def group_norm_direct(
    q: object,
    groups: object,
    weight: object,
    bias: object,
    eps: object,
    scale: object,
    zero_point: object,
    qdtype: object,
    /,
) -> Any: ...
def softmax_direct(
    q: object, dim: object, table: object, scale: object, zero_point: object, qdtype: object, /
) -> Any: ...
def max_pool_direct(
    q: object,
    dims: int,
    kernel_size: object,
    stride: object,
    padding: object,
    dilation: object,
    ceil_mode: object,
    /,
) -> Any: ...
def avg_pool_direct(
    q: object,
    dims: int,
    kernel_size: object,
    stride: object,
    padding: object,
    ceil_mode: object,
    count_include_pad: object,
    divisor_override: object,
    /,
) -> Any: ...
def adaptive_max_pool_direct(q: object, dims: int, output_size: object, /) -> Any: ...
def adaptive_avg_pool_direct(q: object, dims: int, output_size: object, /) -> Any: ...
def spatial_mean_direct(q: object, dim: object, keepdim: object, /) -> Any: ...
def upsample_nearest_direct(
    q: object, exact: bool, size: object, scale_factor: object, recompute: object, /
) -> Any: ...
def upsample_linear_direct(
    q: object, align_corners: bool, size: object, scale_factor: object, recompute: object, /
) -> Any: ...
def cpu_features() -> dict[str, tuple[str, str]]: ...
def isas() -> list[tuple[str, bool, list[str]]]: ...
def kernels(isa: str) -> list[str]: ...
def current_isa() -> str: ...
def force_isa(name: str | None) -> None: ...
def force_gemm_kernel(name: str | None) -> None: ...
def run_peak(steps: int) -> int: ...
def run_read(address: int, size: int, repeats: int) -> int: ...
def last_kernel() -> str: ...
def start_clock() -> None: ...
def stop_clock() -> tuple[int, int]: ...
def use_pool_after_fork() -> None: ...
def parallel_info() -> dict[str, str | int]: ...
def quantize(
    x: int, size: int, scale: float, zero_point: int, lo: int, hi: int, storage: int, out: int, /
) -> None: ...
def quantize_per_channel(
    x: int,
    outer: int,
    channels: int,
    inner: int,
    scales: int,
    zero_points: int,
    lo: int,
    hi: int,
    storage: int,
    out: int,
    /,
) -> None: ...
def dequantize(
    q: int, size: int, scale: float, zero_point: int, storage: int, out: int, /
) -> None: ...
def dequantize_per_channel(
    q: int,
    outer: int,
    channels: int,
    inner: int,
    scales: int,
    zero_points: int,
    storage: int,
    out: int,
    /,
) -> None: ...
def requantize(
    q: int,
    size: int,
    scale: float,
    zero_point: int,
    is_signed: bool,
    out_scale: float,
    out_zero_point: int,
    out_signed: bool,
    lo: int,
    hi: int,
    out: int,
    /,
) -> None: ...
def add(
    a: int,
    a_scale: float,
    a_zero: int,
    b: int,
    b_scale: float,
    b_zero: int,
    size: int,
    is_signed: bool,
    out_scale: float,
    out_zero: int,
    relu: bool,
    out: int,
    /,
) -> None: ...
def mul(
    a: int,
    a_scale: float,
    a_zero: int,
    b: int,
    b_scale: float,
    b_zero: int,
    size: int,
    is_signed: bool,
    out_scale: float,
    out_zero: int,
    relu: bool,
    out: int,
    /,
) -> None: ...
def clamp(q: int, size: int, is_signed: bool, lo: int, hi: int, out: int, /) -> None: ...

# (address, is int8, scale, zero point); outputs: and ReLU.
_Input = tuple[int, bool, float, int]
_Output = tuple[int, bool, float, int, bool]
# (batch, channels, pixels, channels last)
_Layout = tuple[int, int, int, bool]

def unary_table(
    name: str,
    parameters: tuple[float, float, float],
    scale: float,
    zero_point: int,
    is_signed: bool,
    out_scale: float,
    out_zero: int,
    out_signed: bool,
    table: int,
    /,
) -> None: ...

# Address, is int8, scale, zero point, strides of batch, head and token.
_Head = tuple[int, bool, float, int, int, int, int]

def attention(
    shape: tuple[int, int, int, int, int, int],
    q: _Head,
    k: _Head,
    v: _Head,
    scale: float,
    out: _Head,
    /,
) -> None: ...

SOFTMAX_TABLE_BYTES: int

def softmax_table(scale: float, table: int, /) -> None: ...
def lookup(table: int, x: int, size: int, out: int, /) -> None: ...
def scale_shift(x: _Input, layout: _Layout, factor: int, offset: int, out: _Output, /) -> None: ...
def prelu(x: _Input, layout: _Layout, slope: int, out: _Output, /) -> None: ...
def layer_norm(
    x: _Input, rows: int, columns: int, weight: int, bias: int, eps: float, out: _Output, /
) -> None: ...
def group_norm(
    x: _Input, layout: _Layout, groups: int, weight: int, bias: int, eps: float, out: _Output, /
) -> None: ...
def softmax(x: _Input, rows: int, size: int, table: int, out: _Output, /) -> None: ...
def max_pool(*args: int | bool | tuple[int, ...]) -> None: ...
def avg_pool(*args: int | bool | tuple[int, ...]) -> None: ...
def adaptive_max_pool(*args: int | bool | tuple[int, ...]) -> None: ...
def adaptive_avg_pool(*args: int | bool | tuple[int, ...]) -> None: ...
def pool_output_size(
    size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool, /
) -> int: ...
def to_channels_last(x: int, batch: int, channels: int, pixels: int, out: int, /) -> None: ...
def upsample_nearest(
    x: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    is_signed: bool,
    to: tuple[int, ...],
    scale: tuple[float, ...],
    exact: bool,
    out: int,
    /,
) -> None: ...
def upsample_linear(
    x: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    is_signed: bool,
    zero_point: int,
    to: tuple[int, ...],
    scale: tuple[float, ...],
    align_corners: bool,
    out: int,
    /,
) -> None: ...
def embedding_bags(
    table: int,
    qparams: int,
    rows: int,
    columns: int,
    nibbles: bool,
    indices: int,
    count: int,
    is_64_bit: bool,
    offsets: int,
    offset_count: int,
    bag_length: int,
    bags: int,
    weights: int,
    padding: int,
    mode: int,
    out: int,
    /,
) -> None: ...
def cat(
    parts: Sequence[tuple[int, int, int, float, int]],
    rows: int,
    is_signed: bool,
    out_scale: float,
    out_zero: int,
    out: int,
    out_stride: int,
    /,
) -> None: ...

class LinearWeight:
    def __init__(
        self,
        weight: int,
        out_features: int,
        in_features: int,
        scales: int,
        zero_points: int,
        bias: int,
        /,
    ) -> None: ...
    def run(
        self,
        x: int,
        rows: int,
        columns: int,
        stride: int,
        is_signed: bool,
        x_scale: float,
        x_zero: int,
        out_kind: int,
        out_scale: float,
        out_zero: int,
        relu: bool,
        out: int,
        /,
    ) -> None: ...
    def run_direct(
        self, x: object, scale: object, zero_point: object, dtype: object, relu: bool, /
    ) -> torch.Tensor | None: ...
    def run_function_direct(
        self,
        x: object,
        scale: object,
        zero_point: object,
        dtype: object,
        relu: bool,
        function: int,
        slope: float,
        /,
    ) -> torch.Tensor | None: ...
    def run_function(
        self,
        x: int,
        rows: int,
        columns: int,
        stride: int,
        is_signed: bool,
        x_scale: float,
        x_zero: int,
        function: int,
        slope: float,
        out_signed: bool,
        out_scale: float,
        out_zero: int,
        out: int,
        /,
    ) -> None: ...
    def run_dynamic(
        self,
        x: int,
        type: int,
        rows: int,
        columns: int,
        stride: int,
        per_tensor: bool,
        reduce_range: bool,
        relu: bool,
        gelu: bool,
        out: int,
        /,
    ) -> None: ...
    def run_dynamic_direct(
        self, x: object, per_tensor: bool, reduce_range: bool, relu: bool, gelu: bool, /
    ) -> torch.Tensor | None: ...
    def unpack(self, out: int, /) -> None: ...
    def packed_bytes(self) -> int: ...

def recurrent(
    kind: int,
    input: LinearWeight,
    hidden: LinearWeight,
    project: LinearWeight | None,
    x: int,
    type: int,
    rows: int,
    steps: int,
    batch: int,
    batch_sizes: int,
    per_tensor: bool,
    reduce_range: bool,
    reverse: bool,
    h: int,
    c: int,
    out: int,
    out_stride: int,
    /,
) -> None: ...

class ConvWeight:
    def __init__(
        self,
        weight: int,
        rank: int,
        out_channels: int,
        in_channels_per_group: int,
        groups: int,
        kernel: _Spatial,
        stride: _Spatial,
        padding: _Spatial,
        padding_end: _Spatial,
        dilation: _Spatial,
        scales: int,
        zero_points: int,
        bias: int,
        /,
    ) -> None: ...
    def run(
        self,
        x: int,
        batch: int,
        size: _Spatial,
        is_signed: bool,
        x_scale: float,
        x_zero: int,
        out_kind: int,
        out_scale: float,
        out_zero: int,
        relu: bool,
        lo: float,
        hi: float,
        add: int,
        add_scale: float,
        add_zero: int,
        add_signed: bool,
        out: int,
        /,
    ) -> None: ...
    def run_dynamic(
        self,
        x: int,
        type: int,
        batch: int,
        size: _Spatial,
        channels_last: bool,
        per_tensor: bool,
        reduce_range: bool,
        relu: bool,
        out: int,
        /,
    ) -> None: ...
    def run_dynamic_direct(
        self, x: object, per_tensor: bool, reduce_range: bool, relu: bool, /
    ) -> torch.Tensor | None: ...
    def output_size(self, size: _Spatial, /) -> list[int]: ...
    def run_direct(
        self,
        x: object,
        scale: object,
        zero_point: object,
        dtype: object,
        relu: bool,
        add: object = ...,
        clamp: tuple[float, float] | None = ...,
        /,
    ) -> torch.Tensor | None: ...
    def unpack(self, out: int, /) -> None: ...
    def packed_bytes(self) -> int: ...

class ConvTransposeWeight:
    def __init__(
        self,
        weight: int,
        rank: int,
        in_channels: int,
        out_channels_per_group: int,
        groups: int,
        kernel: _Spatial,
        stride: _Spatial,
        padding: _Spatial,
        output_padding: _Spatial,
        dilation: _Spatial,
        scales: int,
        zero_points: int,
        bias: int,
        /,
    ) -> None: ...
    def run(
        self,
        x: int,
        batch: int,
        size: _Spatial,
        output_padding: _Spatial,
        is_signed: bool,
        x_scale: float,
        x_zero: int,
        out_kind: int,
        out_scale: float,
        out_zero: int,
        relu: bool,
        out: int,
        /,
    ) -> None: ...
    def run_dynamic(
        self,
        x: int,
        type: int,
        batch: int,
        size: _Spatial,
        channels_last: bool,
        output_padding: _Spatial,
        per_tensor: bool,
        reduce_range: bool,
        relu: bool,
        out: int,
        /,
    ) -> None: ...
    def run_dynamic_direct(
        self, x: object, per_tensor: bool, reduce_range: bool, relu: bool, /
    ) -> torch.Tensor | None: ...
    def output_size(self, size: _Spatial, /) -> list[int]: ...
    def run_direct(
        self, x: object, scale: object, zero_point: object, dtype: object, relu: bool, /
    ) -> torch.Tensor | None: ...
    def unpack(self, out: int, /) -> None: ...
    def packed_bytes(self) -> int: ...
