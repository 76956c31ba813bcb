"""One module of ``torch.ao.nn.quantized`` as Octavo's: weights, scales and zero points as they are.

Users call :func:`octavo.quantization.from_torch_ao`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from octavo.dtypes import as_qdtype, quint8
from octavo.nn import intrinsic as nni
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import quantized as nniq
from octavo.nn.quantized import dynamic as nnqd
from octavo.nn.quantized.modules.conv_base import ConvModule
from octavo.nn.quantized.modules.weighted import PackedWeightModule
from octavo.quantization.units import adopt_foreign_modules
from octavo.tensor import QTensor

__all__ = ["as_qtensor", "from_module", "functional", "is_known", "observed", "weighted"]

# torch.ao's dynamic modules: one scale of 7 bits for the whole input.
_TORCH_ACTIVATIONS = {"per_tensor": True, "reduce_range": True}


def is_known(cls: Any) -> bool:
    """Whether :func:`from_module` can make this class of Octavo's."""
    return cls is not None and (issubclass(cls, PackedWeightModule) or cls in _BUILDERS)


def from_module(cls: Any, module: Any) -> nn.Module:
    """An Octavo module of class ``cls`` with the parameters of torch.ao's module.

    Raises:
        ValueError: weights that are not int8, as in torch.ao's float16 modules.
    """
    if not issubclass(cls, PackedWeightModule):
        return _BUILDERS[cls](cls, module)
    weight, bias = module._weight_bias()
    output = None
    if ".dynamic." not in cls.__module__:
        output = (float(module.scale), int(module.zero_point))
    return weighted(cls, module, weight, bias, output)


def weighted(
    cls: Any, like: Any, weight: Tensor, bias: Tensor | None, output: tuple[float, int] | None
) -> nn.Module:
    """A module of class ``cls`` with the geometry of ``like``, which may be float or torch.ao's.

    ``output`` is scale and zero point of a static module, None for a dynamic one.
    """
    activations = _TORCH_ACTIVATIONS if output is None else {}
    if issubclass(cls, ConvModule):
        names = "in_channels out_channels kernel_size stride padding output_padding dilation groups"
        geometry = {name: getattr(like, name) for name in (*names.split(), "padding_mode")}
        result = cls._like_float(SimpleNamespace(**geometry, bias=bias), **activations)
    elif issubclass(cls, nnq.Linear):
        result = cls._like(like, like, bias is not None)
    else:
        result = cls(like.in_features, like.out_features, bias is not None, **activations)
    result.set_weight_bias(as_qtensor(weight), None if bias is None else bias.detach())
    if output is not None:
        result._set_output(*output, quint8)
    return result  # type: ignore[no-any-return]


def as_qtensor(theirs: Any) -> QTensor:
    """A quantized torch tensor as a QTensor of its own memory."""
    if not theirs.is_quantized:
        raise ValueError(
            f"the weight is a plain {theirs.dtype} tensor; only int8 weights can be taken over, so "
            "quantize the float model with octavo.quantization.quantize_dynamic"
        )
    plain = theirs.int_repr().contiguous()
    if "channel" in str(theirs.qscheme()):
        scales = theirs.q_per_channel_scales().float()
        zero_points = theirs.q_per_channel_zero_points().to(torch.int32)
        axis = theirs.q_per_channel_axis()
        return QTensor.from_int_repr(plain, scales, zero_points, axis=axis)
    return QTensor.from_int_repr(plain, theirs.q_scale(), theirs.q_zero_point())


class _Output:
    """Stands for an observer that found a scale and zero point."""

    dtype = quint8

    def __init__(self, scale: Any, zero_point: Any) -> None:
        self._scale, self._zero_point = float(scale), int(zero_point)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        return torch.tensor([self._scale]), torch.tensor([self._zero_point])


def observed(module: nn.Module, scale: Any, zero_point: Any) -> nn.Module:
    """A shallow copy of a float module that ``from_float`` takes for a calibrated one."""
    result = copy.copy(module)
    result.__dict__ = dict(module.__dict__)
    result.__dict__["activation_post_process"] = _Output(scale, zero_point)
    return result


def _from_float(cls: Any, module: Any) -> nn.Module:
    """For modules that are a float one with an output scale."""
    made: nn.Module = cls.from_float(observed(module, module.scale, module.zero_point))
    return made


def _quantize(cls: Any, module: Any) -> nn.Module:
    return nnq.Quantize(float(module.scale), int(module.zero_point), as_qdtype(module.dtype))


def functional(module: Any) -> nn.Module:
    """A QFunctional with the ``scale`` and ``zero_point`` of ``module``."""
    result = nnq.QFunctional()
    result._set_output(float(module.scale), int(module.zero_point), None)
    return result


def _max_pool(cls: Any, module: Any) -> nn.Module:
    names = "kernel_size stride padding dilation return_indices ceil_mode"
    return nnq.MaxPool2d(*(getattr(module, name) for name in names.split()))


def _batch_norm(cls: Any, module: Any) -> nn.Module:
    kind = nn.BatchNorm2d if cls.__name__.endswith("2d") else nn.BatchNorm3d
    plain: Any = kind(module.num_features, module.eps).eval()
    names = ("weight", "bias", "running_mean", "running_var")
    plain.load_state_dict({name: getattr(module, name) for name in names}, strict=False)
    if issubclass(cls, (nniq.BNReLU2d, nniq.BNReLU3d)):
        fused = nni.BNReLU2d if kind is nn.BatchNorm2d else nni.BNReLU3d
        plain = fused(plain, nn.ReLU())
    made: nn.Module = cls.from_float(observed(plain, module.scale, module.zero_point))
    return made


def _embedding(cls: Any, module: Any) -> nn.Module:
    table = module.weight()
    result = cls(module.num_embeddings, module.embedding_dim, dtype=table.dtype)
    if issubclass(cls, nnq.EmbeddingBag):
        # torch.ao's sums, whatever mode the float module had.
        result.mode, result.include_last_offset = "sum", module.include_last_offset
    result.set_weight(table)
    return result  # type: ignore[no-any-return]


def _recurrent(cls: Any, module: Any) -> nn.Module:
    names = ["input_size", "hidden_size", "bias"]
    if issubclass(cls, (nnqd.LSTM, nnqd.GRU)):
        names += ["num_layers", "batch_first", "dropout", "bidirectional"]
    elif issubclass(cls, nnqd.RNNCell):
        names.append("nonlinearity")
    arguments = {name: getattr(module, name) for name in names}
    result = cls(**arguments, **_TORCH_ACTIVATIONS)
    weights, biases = _flat(module.get_weight()), _flat(module.get_bias())
    result.set_weight_bias(
        {name: as_qtensor(weight) for name, weight in weights.items()}
        | {name: bias.detach() for name, bias in biases.items() if arguments["bias"]}
    )
    return result  # type: ignore[no-any-return]


def _flat(tree: Any) -> dict[str, Any]:
    """The tensors of nested dicts, by their innermost names."""
    result: dict[str, Any] = {}
    for name, value in tree.items():
        result.update(_flat(value) if isinstance(value, dict) else {name: value})
    return result


def _of_parts(cls: Any, module: Any) -> nn.Module:
    """An LSTM or attention whose parts are quantized modules of torch.ao."""
    result: Any = copy.deepcopy(module)
    for parent in list(result.modules()):
        for name, part in parent._modules.items():
            ours = _COUNTERPARTS.get(type(part).__name__)
            if ours is not None and type(part).__module__.startswith("torch.ao.nn.quantized."):
                parent._modules[name] = from_module(ours, part)
    adopt_foreign_modules(result)
    result.__class__ = cls._FLOAT_MODULE
    result._adopted()
    result.__class__ = cls
    result._take_float_parameters()
    return result  # type: ignore[no-any-return]


_COUNTERPARTS: dict[str, Any] = {
    cls.__name__: cls for cls in (nnq.Linear, nnq.QFunctional, nnq.Quantize, nnq.DeQuantize)
}

_BUILDERS: dict[type, Callable[[Any, Any], nn.Module]] = {
    nnq.LSTM: _of_parts,
    nnq.MultiheadAttention: _of_parts,
    nnq.Quantize: _quantize,
    nnq.DeQuantize: lambda cls, module: nnq.DeQuantize(),
    nnq.QFunctional: lambda cls, module: functional(module),
    nnq.ReLU6: lambda cls, module: nnq.ReLU6(module.inplace),
    nnq.Dropout: lambda cls, module: nnq.Dropout(module.p, module.inplace),
    nnq.MaxPool2d: _max_pool,
    nnq.Embedding: _embedding,
    nnq.EmbeddingBag: _embedding,
    **dict.fromkeys((nnq.BatchNorm2d, nnq.BatchNorm3d, nniq.BNReLU2d, nniq.BNReLU3d), _batch_norm),
    **dict.fromkeys(
        (
            nnq.LayerNorm,
            nnq.GroupNorm,
            nnq.InstanceNorm1d,
            nnq.InstanceNorm2d,
            nnq.InstanceNorm3d,
            nnq.Hardswish,
            nnq.ELU,
            nnq.LeakyReLU,
            nnq.Sigmoid,
            nnq.Softmax,
        ),
        _from_float,
    ),
    **dict.fromkeys((nnqd.LSTM, nnqd.GRU, nnqd.LSTMCell, nnqd.GRUCell, nnqd.RNNCell), _recurrent),
}
