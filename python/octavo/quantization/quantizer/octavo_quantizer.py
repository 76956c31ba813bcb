"""What Octavo's kernels compute, as a quantizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from octavo.dtypes import per_channel_symmetric, per_tensor_affine, per_tensor_symmetric
from octavo.quantization.fake_quantize import (
    FakeQuantize,
    FusedMovingAvgObsFakeQuantize,
)
from octavo.quantization.observer import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
)
from octavo.quantization.pt2e.graph import module_stack, op_name
from octavo.quantization.quantizer.patterns import Annotator
from octavo.quantization.quantizer.quantizer import (
    QuantizationSpec,
    QuantizationSpecBase,
    Quantizer,
)

__all__ = [
    "OctavoQuantizer",
    "QuantizationConfig",
    "get_default_octavo_quantization_config",
]


@dataclass(eq=True, frozen=True)
class QuantizationConfig:
    """How operators are quantized.

    Attributes:
        input_activation, output_activation: specs of their inputs and outputs; None leaves these
            float.
        weight: spec of weights.
        bias: spec of biases; None, which Octavo's kernels want, leaves them float.
        is_qat: the specs make fake-quantize modules.

    Source: ``torchao.quantization.pt2e.quantizer.QuantizationConfig``.
    """

    input_activation: QuantizationSpecBase | None
    output_activation: QuantizationSpecBase | None
    weight: QuantizationSpecBase | None
    bias: QuantizationSpecBase | None = None
    is_qat: bool = False

    @property
    def is_dynamic(self) -> bool:
        """Whether inputs get their scale when the model runs."""
        return bool(getattr(self.input_activation, "is_dynamic", False))


def get_default_octavo_quantization_config(
    is_qat: bool = False,
    is_dynamic: bool = False,
    *,
    is_per_channel: bool = True,
    reduce_range: bool = False,
    act_observer: Any = None,
) -> QuantizationConfig:
    """The settings of ``get_default_qconfig()`` and its like, for graphs: models quantized with
    either have equal qparams.

    Activations are uint8, 0..255, by histogram; weights int8, symmetric, per output channel.

    Args:
        is_qat: fake-quantize modules with moving averages of minimum and maximum, for
            ``prepare_qat_pt2e``, as ``get_default_qat_qconfig()``.
        is_dynamic: inputs of linear layers get a scale and zero point for each row when the model
            runs, as ``default_dynamic_qconfig``; other operators stay float.
        is_per_channel: False gives a weight one scale.
        reduce_range: activations in 0..127. Octavo's arithmetic never needs it.
        act_observer: another observer (or, with ``is_qat``, fake-quantize) class for activations,
            or what its ``with_args`` returns.

    Raises:
        ValueError: is_dynamic with is_qat or act_observer.
    """
    if is_dynamic and (is_qat or act_observer is not None):
        raise ValueError(
            "get_default_octavo_quantization_config: dynamic quantization has no calibration and "
            "no training; leave out is_qat and act_observer, or is_dynamic"
        )
    weight = _weight_spec(is_qat, is_per_channel)
    high = 127 if reduce_range else 255
    if is_dynamic:
        # Quantized modules round to 0..127 by this mark, whose range is the dtype's.
        observer = PlaceholderObserver.with_args(reduce_range=reduce_range)
        act = QuantizationSpec(torch.uint8, observer, 0, 255, per_tensor_affine, is_dynamic=True)
        return QuantizationConfig(act, None, weight)
    if act_observer is None:
        moving = FusedMovingAvgObsFakeQuantize.with_args(observer=MovingAverageMinMaxObserver)
        act_observer = moving if is_qat else HistogramObserver
    act = QuantizationSpec(torch.uint8, act_observer, 0, high, per_tensor_affine)
    return QuantizationConfig(act, act, weight, is_qat=is_qat)


def _weight_spec(is_qat: bool, is_per_channel: bool) -> QuantizationSpec:
    observer: Any
    if is_qat:
        moving: Any = (
            MovingAveragePerChannelMinMaxObserver if is_per_channel else MovingAverageMinMaxObserver
        )
        # Constant 1: weights are rounded as they are, not as they were.
        kind: Any = FusedMovingAvgObsFakeQuantize if is_per_channel else FakeQuantize
        observer = kind.with_args(observer=moving, averaging_constant=1.0)
    else:
        observer = PerChannelMinMaxObserver if is_per_channel else MinMaxObserver
    scheme = per_channel_symmetric if is_per_channel else per_tensor_symmetric
    axis = 0 if is_per_channel else None
    return QuantizationSpec(torch.int8, observer, -128, 127, scheme, axis)


_Type = Any  # a module class, a function, or an operator overload


class OctavoQuantizer(Quantizer):
    """Annotates what Octavo has int8 kernels for.

    * Convolutions and linear layers, with the ReLU, ReLU6 or hardtanh after them; a 2-d convolution
      also with the addition (and ReLU) after it. The tensors within are not quantized.
    * Additions and products of tensors (with ReLU), matrix products.
    * Batch norms that are not part of a layer; layer, group and instance norms; hardswish, ELU,
      leaky ReLU, PReLU; sigmoid, tanh, softmax with their fixed qparams.
      A softmax of a sum or of a masked tensor stays float, and so does that sum.
    * With the qparams of their inputs: pooling, ReLU, clamping, mean, interpolation, padding,
      concatenation, and operations that only move values. A concatenation with a tensor whose
      qparams are fixed or derived has its own.
    * With qparams derived from their inputs', as ``QFunctional.add_scalar`` and ``mul_scalar`` have
      them: sums, differences, products and quotients of a quantized tensor and a number, where
      something quantized takes them or they are an output.

    With a dynamic config, linear layers only.

    The rules (each returns the quantizer), from the weakest to the strongest: :meth:`set_global`,
    :meth:`set_object_type` with its relatives, :meth:`set_module_name`. A config of None leaves
    operators float. Nodes that another quantizer has annotated are left alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.global_config: QuantizationConfig | None = None
        self._types: dict[_Type, QuantizationConfig | None] = {}
        self._names: dict[str, QuantizationConfig | None] = {}

    def set_global(self, quantization_config: QuantizationConfig | None) -> OctavoQuantizer:
        """Applies to all operators without another rule."""
        self.global_config = _checked(quantization_config, "set_global")
        return self

    def set_object_type(
        self, object_type: _Type, quantization_config: QuantizationConfig | None
    ) -> OctavoQuantizer:
        """Applies to operators of modules of a class (``nn.Linear``), of a function (``F.linear``,
        ``torch.add``, ``operator.add``), or of an operator (``torch.ops.aten.add.Tensor``).

        Raises:
            TypeError: an object that is none of these.
        """
        if not callable(object_type) or isinstance(object_type, nn.Module):
            raise TypeError(
                "set_object_type: give it a module class, a function or an operator, got "
                f"{object_type!r}"
            )
        self._types[object_type] = _checked(quantization_config, "set_object_type")
        return self

    def set_module_type(
        self, module_type: Callable[..., Any], quantization_config: QuantizationConfig | None
    ) -> OctavoQuantizer:
        """:meth:`set_object_type` under torchao's name for module classes."""
        return self.set_object_type(module_type, quantization_config)

    def set_function_type(
        self, function_type: Callable[..., Any], quantization_config: QuantizationConfig | None
    ) -> OctavoQuantizer:
        """:meth:`set_object_type` under another name for functions and operators."""
        return self.set_object_type(function_type, quantization_config)

    def set_module_name(
        self, module_name: str, quantization_config: QuantizationConfig | None
    ) -> OctavoQuantizer:
        """Applies to all operators in the module at a path (``"layer1.0"``) of the model that was
        exported. Of two paths one of which holds the other, the longer one counts.
        """
        if not isinstance(module_name, str) or not module_name:
            raise TypeError(f"set_module_name: give it a module's path, got {module_name!r}")
        self._names[module_name] = _checked(quantization_config, "set_module_name")
        return self

    def config_of(self, node: Node) -> QuantizationConfig | None:
        """The config that the rules give a node."""
        stack = module_stack(node)
        for path, _ in reversed(stack):
            if path in self._names:
                return self._names[path]
        for kind, config in self._types.items():
            if _is_of_type(node, stack, kind):
                return config
        return self.global_config

    def annotate(self, model: GraphModule) -> GraphModule:
        """Annotates a graph.

        Raises:
            ValueError: a module name that is none of the model's.
        """
        known = {path for node in model.graph.nodes for path, _ in module_stack(node)}
        unknown = [name for name in self._names if name not in known]
        if unknown:
            raise ValueError(
                f"OctavoQuantizer: set_module_name({unknown[0]!r}, ...) names no module of the "
                f"graph that computes anything; it has {sorted(known - {''})}"
            )
        Annotator(model, self.config_of).run()
        return model

    def validate(self, model: GraphModule) -> None:
        """Octavo runs what it annotates: nothing to refuse."""


def _checked(config: Any, method: str) -> QuantizationConfig | None:
    fields = ("input_activation", "output_activation", "weight", "bias", "is_qat")
    if config is None or all(hasattr(config, name) for name in fields):
        return config  # type: ignore[no-any-return]
    raise TypeError(
        f"{method}: the config must be a QuantizationConfig, such as "
        f"get_default_octavo_quantization_config(), or None; got {config!r}"
    )


def _is_of_type(node: Node, stack: list[tuple[str, str]], kind: _Type) -> bool:
    if isinstance(kind, type):
        name = f"{kind.__module__}.{kind.__qualname__}"
        return bool(stack) and stack[-1][1] == name
    if isinstance(kind, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return kind in (node.target, getattr(node.target, "overloadpacket", None))
    return op_name(node) == str(getattr(kind, "__name__", "")).rstrip("_")
