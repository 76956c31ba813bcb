"""What a quantizer says about the nodes of an exported graph.

A *quantizer* attaches a :class:`QuantizationAnnotation` to nodes, as
``node.meta["quantization_annotation"]``: how the tensors on the node's inputs (*edges*, pairs of
producer and consumer) and its output are quantized. ``prepare_pt2e`` turns annotations into
observers, ``convert_pt2e`` observers into operators.

Names, fields and meaning are those of ``torchao.quantization.pt2e.quantizer``. Specs made with
torchao's own classes are not these classes; quantizers that annotate with them belong to torchao's
``prepare_pt2e``, whose graphs Octavo runs too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

__all__ = [
    "Q_ANNOTATION_KEY",
    "DerivedQuantizationSpec",
    "EdgeOrNode",
    "FixedQParamsQuantizationSpec",
    "QuantizationAnnotation",
    "QuantizationSpec",
    "QuantizationSpecBase",
    "Quantizer",
    "SharedQuantizationSpec",
]

Q_ANNOTATION_KEY = "quantization_annotation"

EdgeOrNode: TypeAlias = tuple[Node, Node] | Node
"""A tensor in a graph: an edge (producer, consumer), or what a node returns."""


class QuantizationSpecBase(ABC):  # noqa: B024
    """How one tensor is quantized."""


def _check_range(kind: str, quant_min: int | None, quant_max: int | None) -> None:
    if quant_min is not None and quant_max is not None and quant_min > quant_max:
        raise ValueError(f"{kind}: quant_min {quant_min} must be <= quant_max {quant_max}")


@dataclass(eq=True, frozen=True)
class QuantizationSpec(QuantizationSpecBase):
    """A tensor whose qparams are observed.

    Attributes:
        dtype: integer dtype of the quantized tensor, such as ``torch.uint8`` or ``octavo.quint8``.
        observer_or_fake_quant_ctr: class of an observer or fake-quantize, or what its ``with_args``
            returns; it is called with those of the other fields that are not None.
        quant_min, quant_max: range of the integers.
        qscheme: such as ``torch.per_tensor_affine``.
        ch_axis: the axis of per-channel schemes, not negative.
        is_dynamic: scale and zero point are found when the model runs.

    Raises:
        ValueError: quant_min above quant_max; a negative axis.
    """

    dtype: Any
    observer_or_fake_quant_ctr: Any
    quant_min: int | None = None
    quant_max: int | None = None
    qscheme: Any = None
    ch_axis: int | None = None
    is_dynamic: bool = False

    def __post_init__(self) -> None:
        _check_range("QuantizationSpec", self.quant_min, self.quant_max)
        if self.ch_axis is not None and self.ch_axis < 0:
            raise ValueError(f"QuantizationSpec: ch_axis must not be negative, got {self.ch_axis}")


@dataclass(eq=True, frozen=True)
class FixedQParamsQuantizationSpec(QuantizationSpecBase):
    """A tensor whose qparams are known beforehand, such as the output of a sigmoid."""

    dtype: Any
    scale: float
    zero_point: int
    quant_min: int | None = None
    quant_max: int | None = None
    qscheme: Any = None
    is_dynamic: bool = False

    def __post_init__(self) -> None:
        _check_range("FixedQParamsQuantizationSpec", self.quant_min, self.quant_max)


@dataclass(eq=True, frozen=True)
class SharedQuantizationSpec(QuantizationSpecBase):
    """A tensor with the qparams of another one.

    Attributes:
        edge_or_node: the other tensor.
        observes: whether the shared observer sees this tensor too. False is for results that hold
            no values outside of the other tensor's range (views, pooling, ``cat`` of tensors that
            share): the observer then counts no value twice. torchao has no such field, its
            observers see both.
    """

    edge_or_node: EdgeOrNode
    observes: bool = True


@dataclass(eq=True, frozen=True)
class DerivedQuantizationSpec(QuantizationSpecBase):
    """A tensor whose qparams are computed from those of others, such as a bias.

    Attributes:
        derived_from: the other tensors.
        derive_qparams_fn: takes the list of their observers, returns scale and zero point tensors.
        dtype, quant_min, quant_max, qscheme, ch_axis, is_dynamic: as :class:`QuantizationSpec`.
    """

    derived_from: list[EdgeOrNode]
    derive_qparams_fn: Callable[[list[Any]], tuple[Tensor, Tensor]]
    dtype: Any
    quant_min: int | None = None
    quant_max: int | None = None
    qscheme: Any = None
    ch_axis: int | None = None
    is_dynamic: bool = False

    def __post_init__(self) -> None:
        _check_range("DerivedQuantizationSpec", self.quant_min, self.quant_max)


@dataclass
class QuantizationAnnotation:
    """How the inputs and the output of a node are quantized.

    Attributes:
        input_qspec_map: spec of each input node; inputs that are not in it, or map to None, stay
            as they are.
        output_qspec: spec of the output, or None.
        allow_implicit_sharing: an input edge of this node shares its observer with the producer's
            output and with the producer's other consumers where their specs agree: they are the
            same tensor.
        _annotated: a quantizer has dealt with the node.
    """

    input_qspec_map: dict[Node, QuantizationSpecBase | None] = field(default_factory=dict)
    output_qspec: QuantizationSpecBase | None = None
    allow_implicit_sharing: bool = True
    _annotated: bool = False


class Quantizer(ABC):
    """Decides what is quantized, and how; users and backends subclass it.

    ``prepare_pt2e`` calls :meth:`transform_for_annotation`, :meth:`annotate`, :meth:`validate` and
    :meth:`prepare_obs_or_fq_callback`, in this order.
    """

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        """Rewrites the graph before it is annotated; returns the graph to go on with."""
        return model

    @abstractmethod
    def annotate(self, model: GraphModule) -> GraphModule:
        """Sets ``node.meta["quantization_annotation"]`` on nodes of ``model``, and returns it."""

    @abstractmethod
    def validate(self, model: GraphModule) -> None:
        """Raises an exception if the annotated graph is not what the backend can run."""

    def prepare_obs_or_fq_callback(  # noqa: B027  (optional)
        self, model: GraphModule, edge_or_node_to_obs_or_fq: dict[EdgeOrNode, torch.nn.Module]
    ) -> None:
        """Called with the observer of each edge and node before they are inserted; may exchange
        them. Tensors that share have one instance.
        """
