"""How each sequence of float modules becomes one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from octavo.nn import intrinsic as nni

__all__ = [
    "fuse_conv_bn",
    "fuse_conv_bn_hardtanh",
    "fuse_conv_bn_relu",
    "fuse_convtranspose_bn",
    "fuse_linear_bn",
    "get_fuser_method",
]

Fuser = Callable[..., nn.Module]

_CONV_BN: dict[type, Any] = {
    nn.Conv1d: nni.ConvBn1d,
    nn.Conv2d: nni.ConvBn2d,
    nn.Conv3d: nni.ConvBn3d,
}
_CONV_BN_RELU: dict[type, Any] = {
    nn.Conv1d: nni.ConvBnReLU1d,
    nn.Conv2d: nni.ConvBnReLU2d,
    nn.Conv3d: nni.ConvBnReLU3d,
}
_CONV_RELU: dict[type, Any] = {
    nn.Conv1d: nni.ConvReLU1d,
    nn.Conv2d: nni.ConvReLU2d,
    nn.Conv3d: nni.ConvReLU3d,
}
_CONV_BN_HARDTANH: dict[type, Any] = {
    nn.Conv1d: nni.ConvBnHardtanh1d,
    nn.Conv2d: nni.ConvBnHardtanh2d,
    nn.Conv3d: nni.ConvBnHardtanh3d,
}
_CONV_HARDTANH: dict[type, Any] = {
    nn.Conv1d: nni.ConvHardtanh1d,
    nn.Conv2d: nni.ConvHardtanh2d,
    nn.Conv3d: nni.ConvHardtanh3d,
}


def _class_for(classes: Mapping[type, Any], module: nn.Module) -> Any:
    for base, fused in classes.items():
        if isinstance(module, base):
            return fused
    known = [base.__name__ for base in classes]
    raise TypeError(f"fuse_modules: expected one of {known}, got {type(module).__name__}")


def check_batch_norm(is_qat: bool, first: nn.Module, bn: Any, outputs: int) -> None:
    """Raises ValueError where a batch norm cannot be fused with the module before it.

    Args:
        is_qat: keep the batch norm for training, or fold it into the weights.
        first: the module before it.
        bn: the batch norm.
        outputs: the number of output channels of ``first``.
    """
    pair = f"{type(first).__name__} and {type(bn).__name__}"
    if not is_qat and (first.training or bn.training):
        raise ValueError(
            f"fuse_modules: {pair} are in training mode, and a batch norm is folded only in eval "
            "mode; call model.eval() first, or fuse_modules_qat for quantization-aware training"
        )
    if bn.num_features != outputs:
        raise ValueError(
            f"fuse_modules: {pair} do not follow each other: the first has {outputs} output "
            f"channels, the batch norm {bn.num_features}"
        )
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError(f"fuse_modules: {pair}: the batch norm has track_running_stats=False")
    if is_qat and not bn.affine:
        raise ValueError(f"fuse_modules: {pair}: the batch norm has affine=False")


def fuse_conv_bn(is_qat: bool, conv: nn.Module, bn: nn.Module) -> nn.Module:
    """Convolution and batch norm: the convolution with folded weights, or a ConvBn module for QAT.

    Folding is float arithmetic in the dtype of the weights, as ``torch.nn.utils.fusion`` does it.

    Raises:
        ValueError: see :func:`check_batch_norm`.

    Source: ``torch.ao.quantization.fuse_conv_bn``.
    """
    check_batch_norm(is_qat, conv, bn, conv.out_channels)  # type: ignore[arg-type]
    if is_qat:
        return _class_for(_CONV_BN, conv)(conv, bn)  # type: ignore[no-any-return]
    return fuse_conv_bn_eval(conv, bn)  # type: ignore[type-var, arg-type]


def fuse_conv_bn_relu(is_qat: bool, conv: nn.Module, bn: nn.Module, relu: nn.Module) -> nn.Module:
    """Convolution, batch norm and ReLU: a ConvReLU with folded weights, or a ConvBnReLU for QAT.

    Raises:
        ValueError: see :func:`check_batch_norm`.

    Source: ``torch.ao.quantization.fuse_conv_bn_relu``.
    """
    if is_qat:
        check_batch_norm(is_qat, conv, bn, conv.out_channels)  # type: ignore[arg-type]
        return _class_for(_CONV_BN_RELU, conv)(conv, bn, relu)  # type: ignore[no-any-return]
    return _class_for(_CONV_RELU, conv)(fuse_conv_bn(False, conv, bn), relu)  # type: ignore[no-any-return]


def fuse_conv_bn_hardtanh(
    is_qat: bool, conv: nn.Module, bn: nn.Module, hardtanh: nn.Module
) -> nn.Module:
    """Convolution, batch norm and Hardtanh or ReLU6: a ConvHardtanh with folded weights, or a
    ConvBnHardtanh for QAT.

    Raises:
        ValueError: see :func:`check_batch_norm`.
    """
    if is_qat:
        check_batch_norm(is_qat, conv, bn, conv.out_channels)  # type: ignore[arg-type]
        return _class_for(_CONV_BN_HARDTANH, conv)(conv, bn, hardtanh)  # type: ignore[no-any-return]
    fused = _class_for(_CONV_HARDTANH, conv)
    return fused(fuse_conv_bn(False, conv, bn), hardtanh)  # type: ignore[no-any-return]


def fuse_linear_bn(is_qat: bool, linear: nn.Module, bn: nn.Module) -> nn.Module:
    """Linear and BatchNorm1d: the Linear with folded weights, or a LinearBn1d for QAT.

    Raises:
        ValueError: see :func:`check_batch_norm`.

    Source: ``torch.ao.quantization.fuse_linear_bn``.
    """
    check_batch_norm(is_qat, linear, bn, linear.out_features)  # type: ignore[arg-type]
    if is_qat:
        return nni.LinearBn1d(linear, bn)  # type: ignore[arg-type]
    return fuse_linear_bn_eval(linear, bn)  # type: ignore[type-var, arg-type]


def fuse_linear_bn_leaky_relu(
    is_qat: bool, linear: nn.Module, bn: nn.Module, leaky_relu: nn.Module
) -> nn.Module:
    """Linear, BatchNorm1d and LeakyReLU: a LinearLeakyReLU with folded weights.

    Raises:
        NotImplementedError: for QAT.
        ValueError: see :func:`check_batch_norm`.
    """
    if is_qat:
        raise NotImplementedError(
            "fuse_modules_qat: Linear, BatchNorm1d and LeakyReLU have no fused form for training; "
            "fuse the first two"
        )
    return nni.LinearLeakyReLU(fuse_linear_bn(False, linear, bn), leaky_relu)  # type: ignore[arg-type]


def fuse_convtranspose_bn(is_qat: bool, convt: nn.Module, bn: nn.Module) -> nn.Module:
    """Transposed convolution (of any number of groups) and batch norm: folded weights.

    Raises:
        NotImplementedError: for QAT.
        ValueError: see :func:`check_batch_norm`.

    Source: ``torch.ao.quantization.fuse_convtranspose_bn``, which fails on groups.
    """
    if is_qat:
        raise NotImplementedError(
            "fuse_modules_qat: a transposed convolution and a batch norm cannot be fused for "
            "training; leave them apart"
        )
    check_batch_norm(is_qat, convt, bn, convt.out_channels)  # type: ignore[arg-type]
    if convt.groups == 1:
        return fuse_conv_bn_eval(convt, bn, transpose=True)  # type: ignore[type-var, arg-type]
    return _fold_grouped_transposed(convt, bn)


def _fold_grouped_transposed(convt: Any, bn: Any) -> nn.Module:
    fused = copy.deepcopy(convt)
    inverse: Tensor = torch.rsqrt(bn.running_var + bn.eps)
    factor = inverse if bn.weight is None else inverse * bn.weight
    shift = torch.zeros_like(factor) if bn.bias is None else bn.bias
    bias = torch.zeros_like(factor) if convt.bias is None else convt.bias
    with torch.no_grad():
        # Weights are [in, out / groups, ...]; the outputs of a group belong to its inputs only.
        grouped = convt.weight.unflatten(0, (convt.groups, -1))
        shape = (convt.groups, 1, -1, *[1] * (convt.weight.dim() - 2))
        fused.weight = nn.Parameter((grouped * factor.view(shape)).flatten(0, 1))
        fused.bias = nn.Parameter((bias - bn.running_mean) * factor + shift)
    return fused  # type: ignore[no-any-return]


def _in_sequence(cls: Any) -> Fuser:
    def fuse(is_qat: bool, *modules: nn.Module) -> nn.Module:
        return cls(*modules)  # type: ignore[no-any-return]

    return fuse


_FUSERS: dict[tuple[type, ...], Fuser] = {
    (nn.Conv1d, nn.BatchNorm1d): fuse_conv_bn,
    (nn.Conv1d, nn.BatchNorm1d, nn.ReLU): fuse_conv_bn_relu,
    (nn.Conv2d, nn.BatchNorm2d): fuse_conv_bn,
    (nn.Conv2d, nn.BatchNorm2d, nn.ReLU): fuse_conv_bn_relu,
    (nn.Conv3d, nn.BatchNorm3d): fuse_conv_bn,
    (nn.Conv3d, nn.BatchNorm3d, nn.ReLU): fuse_conv_bn_relu,
    (nn.Conv1d, nn.ReLU): _in_sequence(nni.ConvReLU1d),
    (nn.Conv2d, nn.ReLU): _in_sequence(nni.ConvReLU2d),
    (nn.Conv3d, nn.ReLU): _in_sequence(nni.ConvReLU3d),
    (nn.Conv1d, nn.ReLU6): _in_sequence(nni.ConvHardtanh1d),
    (nn.Conv1d, nn.BatchNorm1d, nn.ReLU6): fuse_conv_bn_hardtanh,
    (nn.Conv2d, nn.ReLU6): _in_sequence(nni.ConvHardtanh2d),
    (nn.Conv2d, nn.BatchNorm2d, nn.ReLU6): fuse_conv_bn_hardtanh,
    (nn.Conv3d, nn.ReLU6): _in_sequence(nni.ConvHardtanh3d),
    (nn.Conv3d, nn.BatchNorm3d, nn.ReLU6): fuse_conv_bn_hardtanh,
    (nn.Conv1d, nn.Hardtanh): _in_sequence(nni.ConvHardtanh1d),
    (nn.Conv1d, nn.BatchNorm1d, nn.Hardtanh): fuse_conv_bn_hardtanh,
    (nn.Conv2d, nn.Hardtanh): _in_sequence(nni.ConvHardtanh2d),
    (nn.Conv2d, nn.BatchNorm2d, nn.Hardtanh): fuse_conv_bn_hardtanh,
    (nn.Conv3d, nn.Hardtanh): _in_sequence(nni.ConvHardtanh3d),
    (nn.Conv3d, nn.BatchNorm3d, nn.Hardtanh): fuse_conv_bn_hardtanh,
    (nn.Linear, nn.BatchNorm1d): fuse_linear_bn,
    (nn.Linear, nn.BatchNorm1d, nn.LeakyReLU): fuse_linear_bn_leaky_relu,
    (nn.Linear, nn.ReLU): _in_sequence(nni.LinearReLU),
    (nn.Linear, nn.LeakyReLU): _in_sequence(nni.LinearLeakyReLU),
    (nn.Linear, nn.Tanh): _in_sequence(nni.LinearTanh),
    (nn.BatchNorm2d, nn.ReLU): _in_sequence(nni.BNReLU2d),
    (nn.BatchNorm3d, nn.ReLU): _in_sequence(nni.BNReLU3d),
    (nn.ConvTranspose1d, nn.BatchNorm1d): fuse_convtranspose_bn,
    (nn.ConvTranspose2d, nn.BatchNorm2d): fuse_convtranspose_bn,
    (nn.ConvTranspose3d, nn.BatchNorm3d): fuse_convtranspose_bn,
}

FUSABLE = frozenset(cls for types in _FUSERS for cls in types)
"""The classes that appear in a known sequence."""


def get_fuser_method(
    op_list: Sequence[type],
    additional_fuser_method_mapping: Mapping[tuple[type, ...], Fuser] | None = None,
) -> Fuser:
    """The function ``(is_qat, *modules) -> fused module`` for a sequence of module classes.

    Args:
        op_list: the classes.
        additional_fuser_method_mapping: further sequences; they win over the known ones.

    Raises:
        NotImplementedError: an unknown sequence; lists the known ones.

    Source: ``torch.ao.quantization.get_fuser_method``, which raises AssertionError.
    """
    known = {**_FUSERS, **(additional_fuser_method_mapping or {})}
    types = tuple(op_list)
    if types not in known:
        sequences = "; ".join(" + ".join(cls.__name__ for cls in key) for key in known)
        raise NotImplementedError(
            f"fuse_modules: cannot fuse {' + '.join(cls.__name__ for cls in types)}; what can be "
            f"fused: {sequences}"
        )
    return known[types]
