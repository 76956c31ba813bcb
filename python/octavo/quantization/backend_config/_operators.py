"""The operations that backends quantize, by how they are observed, and the configs of each kind."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from octavo.nn import intrinsic as nni
from octavo.nn import qat as nnqat
from octavo.nn.intrinsic import qat as nniqat
from octavo.quantization.backend_config.backend_config import (
    BackendPatternConfig,
    DTypeConfig,
    DTypeWithConstraints,
    ObservationType,
)
from octavo.quantization.fuser_method_mappings import get_fuser_method

OWN = ObservationType.OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT
SHARED = ObservationType.OUTPUT_SHARE_OBSERVER_WITH_INPUT
UNOBSERVED = ObservationType.INPUT_OUTPUT_NOT_OBSERVED

DTypes = list[DTypeConfig]

_torch: Any = torch  # some functions have no stubs
_nn: Any = torch._C._nn

# Module class by function, where a fused sequence has the function.
FUNCTION_MODULES: dict[Any, Callable[[], nn.Module]] = {
    F.relu: nn.ReLU,
    F.relu6: nn.ReLU6,
    F.hardtanh: nn.Hardtanh,
    F.leaky_relu: nn.LeakyReLU,
    torch.tanh: nn.Tanh,
}


def fuse_parts(is_qat: bool, *parts: Any) -> nn.Module:
    """The fused module of a known sequence; functions in it stand for their modules."""
    modules = [part if isinstance(part, nn.Module) else FUNCTION_MODULES[part]() for part in parts]
    kinds = []
    for module in modules:
        known = [base for base in type(module).__mro__ if base.__module__.startswith("torch.nn")]
        kinds.append(known[0])
    return get_fuser_method(kinds)(is_qat, *modules)


def pattern(
    key: Any, dtypes: DTypes, observation: ObservationType = OWN, **attributes: Any
) -> BackendPatternConfig:
    result = BackendPatternConfig(key).set_observation_type(observation)
    result.set_dtype_configs(list(dtypes))
    for name, value in attributes.items():
        setattr(result, name, value)
    return result


def patterns(
    keys: Iterable[Any], dtypes: DTypes, observation: ObservationType = OWN
) -> list[BackendPatternConfig]:
    return [pattern(key, dtypes, observation) for key in keys]


def fused(
    keys: Sequence[Any], dtypes: DTypes, module: type[nn.Module] | None = None
) -> BackendPatternConfig:
    return pattern(tuple(keys), dtypes, fuser_method=fuse_parts, fused_module=module)


_WEIGHT_ARGUMENTS = {"weight": 1, "bias": 2}


def linear_configs(dtypes: DTypes) -> list[BackendPatternConfig]:
    root: dict[str, Any] = {"root_module": nn.Linear}
    linear: Any = F.linear
    result = [
        pattern(nn.Linear, dtypes, qat_module=nnqat.Linear, **root),
        pattern(nnqat.Linear, dtypes, **root),
        pattern(linear, dtypes, _input_type_to_index=_WEIGHT_ARGUMENTS),
        fused((nn.Linear, nn.ReLU), dtypes, nni.LinearReLU),
        fused((nn.Linear, F.relu), dtypes, nni.LinearReLU),
        pattern(nni.LinearReLU, dtypes, qat_module=nniqat.LinearReLU, **root),
        pattern(nniqat.LinearReLU, dtypes, **root),
        pattern((linear, nn.ReLU), dtypes),
        pattern((linear, F.relu), dtypes),
        fused((nn.Linear, nn.BatchNorm1d), dtypes, nni.LinearBn1d),
        pattern(nni.LinearBn1d, dtypes, qat_module=nniqat.LinearBn1d, **root),
        pattern(nniqat.LinearBn1d, dtypes, **root),
    ]
    return result


def conv_configs(dtypes: DTypes) -> list[BackendPatternConfig]:
    result = []
    for rank in (1, 2, 3):

        def named(package: Any, name: str, rank: int = rank) -> Any:
            return getattr(package, f"{name}{rank}d")

        conv, bn, function = named(nn, "Conv"), named(nn, "BatchNorm"), named(F, "conv")
        transposed = named(nn, "ConvTranspose")
        root: dict[str, Any] = {"root_module": conv}
        result += [
            pattern(conv, dtypes, qat_module=named(nnqat, "Conv"), **root),
            pattern(named(nnqat, "Conv"), dtypes, **root),
            pattern(function, dtypes, _input_type_to_index=_WEIGHT_ARGUMENTS),
        ]
        for relu in (nn.ReLU, F.relu):
            result += [
                fused((conv, relu), dtypes, named(nni, "ConvReLU")),
                pattern((function, relu), dtypes),
                fused((conv, bn, relu), dtypes, named(nni, "ConvBnReLU")),
            ]
        result.append(fused((conv, bn), dtypes, named(nni, "ConvBn")))
        for name in ("ConvReLU", "ConvBn", "ConvBnReLU"):
            trained = named(nniqat, name)
            result.append(pattern(named(nni, name), dtypes, qat_module=trained))
            result.append(pattern(trained, dtypes, **root))
        result += [
            pattern(transposed, dtypes, root_module=transposed),
            fused((transposed, bn), dtypes),
            pattern(named(F, "conv_transpose"), dtypes, _input_type_to_index=_WEIGHT_ARGUMENTS),
        ]
    return result


RELUS: tuple[Any, ...] = (nn.ReLU, F.relu, torch.relu)


def binary_configs(dtypes: DTypes) -> list[BackendPatternConfig]:
    by_tensors = {0: OWN, 1: SHARED, 2: OWN}
    return [
        pattern(key, dtypes, _num_tensor_args_to_observation_type=by_tensors)
        for function in (operator.add, torch.add, operator.mul, torch.mul)
        for key in (*((function, relu) for relu in RELUS), function)
    ]


def bn_configs(dtypes: DTypes) -> list[BackendPatternConfig]:
    result = []
    for bn, whole in ((nn.BatchNorm2d, nni.BNReLU2d), (nn.BatchNorm3d, nni.BNReLU3d)):
        result.append(pattern(bn, dtypes))
        result += [fused((bn, relu), dtypes, whole) for relu in (nn.ReLU, F.relu)]
        result.append(pattern(whole, dtypes))
    return result


DEFAULT_OPERATORS: tuple[Any, ...] = (
    nn.ELU,
    nn.LeakyReLU,
    nn.Hardswish,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.Dropout,
    nn.PReLU,
    F.elu,
    F.hardswish,
    F.leaky_relu,
    F.dropout,
    torch.matmul,
)


def default_configs(dtypes: DTypes) -> list[BackendPatternConfig]:
    return [
        *patterns(DEFAULT_OPERATORS, dtypes),
        pattern(F.group_norm, dtypes, _input_type_to_index={"weight": 2, "bias": 3}),
        pattern(F.instance_norm, dtypes, _input_type_to_index={"weight": 3, "bias": 4}),
    ]


def layer_norm_configs(dtypes: DTypes) -> list[BackendPatternConfig]:
    return [
        pattern(F.layer_norm, dtypes, _input_type_to_index={"weight": 2, "bias": 3}),
        pattern(nn.LayerNorm, dtypes),
    ]


# Operations whose results have a fixed scale: 1/256 from 0, or 2/256 around 0.
FROM_ZERO: tuple[Any, ...] = (
    nn.Hardsigmoid,
    F.hardsigmoid,
    "hardsigmoid",
    "hardsigmoid_",
    nn.Sigmoid,
    torch.sigmoid,
    "sigmoid",
    "sigmoid_",
    nn.Softmax,
)
AROUND_ZERO: tuple[Any, ...] = (nn.Tanh, torch.tanh, "tanh", "tanh_")


def fixed_configs(dtypes: DTypes) -> list[BackendPatternConfig]:
    """``dtypes`` with the fixed scale of each operation in the quint8 ones."""

    def constrained(config: DTypeConfig, scale: float, zero_point: int) -> DTypeConfig:
        dtype = config.input_dtype
        if str(dtype).rpartition(".")[2] != "quint8":
            return config
        limits = DTypeWithConstraints(
            dtype,
            quant_min_lower_bound=0,
            quant_max_upper_bound=255,
            scale_exact_match=scale,
            zero_point_exact_match=zero_point,
        )
        return DTypeConfig(limits, limits)

    return [
        pattern(key, [constrained(config, scale, zero_point) for config in dtypes])
        for keys, scale, zero_point in ((FROM_ZERO, 1 / 256, 0), (AROUND_ZERO, 2 / 256, 128))
        for key in keys
    ]


SHARED_OPERATORS: tuple[Any, ...] = (
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.Hardtanh,
    nn.Identity,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ReLU,
    nn.ReLU6,
    torch.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d,
    F.adaptive_avg_pool3d,
    F.hardtanh,
    F.hardtanh_,
    F.interpolate,
    F.max_pool1d,
    F.max_pool2d,
    F.max_pool3d,
    torch.pixel_shuffle,
    torch.pixel_unshuffle,
    F.relu,
    F.relu6,
    torch.avg_pool1d,
    _nn.avg_pool2d,
    _nn.avg_pool3d,
    torch.clamp,
    torch.flatten,
    torch.mean,
    torch.narrow,
    torch.repeat_interleave,
    torch.transpose,
    torch.squeeze,
    torch.stack,
    torch.unsqueeze,
    operator.floordiv,
    "contiguous",
    "clamp",
    "detach",
    "detach_",
    "mean",
    "permute",
    "repeat",
    "repeat_interleave",
    "reshape",
    "resize_",
    "relu",
    "relu_",
    "squeeze",
    "squeeze_",
    "transpose",
    "unsqueeze",
    "unsqueeze_",
    "view",
)


def shared_configs(dtypes: DTypes) -> list[BackendPatternConfig]:
    return patterns((torch.cat, *SHARED_OPERATORS), dtypes, SHARED)


def unobserved_configs(dtypes: DTypes) -> list[BackendPatternConfig]:
    return patterns(("shape", "size"), dtypes, UNOBSERVED)


RECURRENT: tuple[type[nn.Module], ...] = (
    nn.GRUCell,
    nn.LSTMCell,
    nn.RNNCell,
    nn.LSTM,
    nn.GRU,
)


def recurrent_configs(dtypes: DTypes) -> list[BackendPatternConfig]:
    return [pattern(cls, dtypes, root_module=cls) for cls in RECURRENT]


def embedding_configs(dtypes: DTypes) -> list[BackendPatternConfig]:
    result = []
    for cls, trained in (
        (nn.Embedding, nnqat.Embedding),
        (nn.EmbeddingBag, nnqat.EmbeddingBag),
    ):
        result.append(pattern(cls, dtypes, qat_module=trained, root_module=cls))
        result.append(pattern(trained, dtypes, root_module=cls))
    return result


def conv_add_configs(dtypes: DTypes) -> list[BackendPatternConfig]:
    """Convolution (and batch norm) plus another tensor, with or without ReLU: the fused module's
    config says that the backend has it; the graph is searched by :mod:`octavo.quantization.fx`.
    """
    return [
        pattern(whole, dtypes, root_module=nn.Conv2d, fused_module=whole)
        for whole in (nni.ConvAdd2d, nni.ConvAddReLU2d)
    ]


def linear_function_configs(dtypes: DTypes) -> list[BackendPatternConfig]:
    """Linear and LeakyReLU or Tanh."""
    linear: Any = F.linear
    result = []
    for parts, whole in (
        ((nn.LeakyReLU, F.leaky_relu), nni.LinearLeakyReLU),
        ((nn.Tanh, torch.tanh), nni.LinearTanh),
    ):
        for part in parts:
            result.append(fused((nn.Linear, part), dtypes, whole))
            result.append(pattern((linear, part), dtypes))
        result.append(pattern(whole, dtypes, root_module=nn.Linear))
    result.append(fused((nn.Linear, nn.BatchNorm1d, nn.LeakyReLU), dtypes, nni.LinearLeakyReLU))
    return result
