"""Cross-layer equalization: channels of neighbouring layers get similar ranges, so that one scale
fits all of them. The float model computes the same as before.

Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction (ICCV
2019); ``torch.ao.quantization._equalize``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from octavo.nn import intrinsic as nni
from octavo.quantization.fold import copy_model

__all__ = ["SUPPORTED", "cross_layer_equalization", "equalize", "grouped"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
SUPPORTED = (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED)
_MAX_SWEEPS = 100


def _layer_of(module: nn.Module, name: str) -> nn.Module:
    """The module with the weight, which a fused one has in its first place."""
    layer = module[0] if isinstance(module, nni._FusedModule) else module
    if not isinstance(layer, SUPPORTED):
        raise TypeError(
            f"equalize: {name} must be a Linear or a convolution, alone or fused with a ReLU, got "
            f"{type(module).__name__}"
        )
    return layer


def grouped(layer: nn.Module) -> Tensor:
    """A view of the weight, ``[groups, outputs of a group, inputs of a group, rest]``."""
    weight: Tensor = layer.weight.detach()  # type: ignore[operator]
    groups: int = getattr(layer, "groups", 1)
    view = weight.view(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return view.transpose(1, 2) if isinstance(layer, _TRANSPOSED) else view


def _ranges(values: Tensor) -> Tensor:
    """Largest less smallest value of each row of ``[channels, values]``."""
    return values.amax(1) - values.amin(1)


def _output_ranges(layer: nn.Module) -> Tensor:
    return _ranges(grouped(layer).flatten(0, 1).flatten(1))


def _input_ranges(layer: nn.Module) -> Tensor:
    return _ranges(grouped(layer).transpose(1, 2).flatten(0, 1).flatten(1))


def cross_layer_equalization(first: nn.Module, second: nn.Module) -> None:
    """Scales the output channels of one layer and the input channels of the next, in place, so that
    the weights of both have the same range in each channel.

    Args:
        first: a Linear or convolution, alone or fused with a ReLU.
        second: the layer that takes its output, with nothing between but ReLU, pooling and the
            like, for which ``f(c x) = c f(x)``.

    Channels of which a weight is constant stay as they are.

    Raises:
        TypeError: other modules.
        ValueError: the second layer does not have as many inputs as the first has outputs.

    Source: ``torch.ao.quantization._equalize.cross_layer_equalization``.
    """
    first, second = _layer_of(first, "the first module"), _layer_of(second, "the second module")
    outputs, inputs = _output_ranges(first), _input_ranges(second)
    if outputs.shape != inputs.shape:
        raise ValueError(
            f"equalize: the first module has {outputs.numel()} outputs and the second "
            f"{inputs.numel()} inputs; they must be the same channels"
        )
    usable = (outputs > 0) & (inputs > 0)
    factor = torch.where(usable, (outputs / inputs).sqrt(), 1)
    weight = grouped(first)
    weight /= factor.view(weight.shape[0], weight.shape[1], 1, 1)
    if first.bias is not None:
        first.bias.detach().div_(factor)  # type: ignore[operator]
    weight = grouped(second)
    weight *= factor.view(weight.shape[0], 1, weight.shape[2], 1)


def equalize(
    model: nn.Module,
    paired_modules_list: Sequence[Sequence[str]],
    threshold: float = 1e-4,
    inplace: bool = True,
) -> nn.Module:
    """Equalizes pairs of neighbouring layers until their weights stop to change.

    Call it on the float model, fused, before ``prepare``. It helps where weights have one scale
    per tensor; with one per channel it narrows the ranges of activations.

    Args:
        model: a float model.
        paired_modules_list: names, ``[["conv1", "conv2"], ["conv2", "conv3"]]``: the output of the
            first of a pair goes to the second, and nowhere else.
        threshold: the largest change of a weight matrix (Frobenius norm) at which to stop.
        inplace: change ``model`` instead of a deep copy.

    Raises:
        TypeError, ValueError: see :func:`cross_layer_equalization`.
        AttributeError: a name that the model does not have.

    Source: ``torch.ao.quantization._equalize.equalize``.
    """
    if not inplace:
        model = copy_model(model)
    pairs = [(model.get_submodule(a), model.get_submodule(b)) for a, b in paired_modules_list]
    layers = [_layer_of(m, "each module") for pair in pairs for m in pair]
    for _ in range(_MAX_SWEEPS):
        before = [layer.weight.detach().clone() for layer in layers]  # type: ignore[operator]
        for first, second in pairs:
            cross_layer_equalization(first, second)
        changes = (
            (layer.weight.detach() - old).norm()  # type: ignore[operator]
            for layer, old in zip(layers, before, strict=True)
        )
        if all(float(change) < threshold for change in changes):
            break
    return model
