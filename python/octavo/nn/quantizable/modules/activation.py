"""Multi-head attention of parts that can be observed and quantized one by one."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from octavo.nn.quantizable.modules.lstm_cell import check_plain_parameters
from octavo.nn.quantized.modules.attention_math import AttentionMath, Heads
from octavo.nn.quantized.modules.functional_modules import FloatFunctional
from octavo.nn.quantized.modules.utils import source_label
from octavo.tensor import QTensor

__all__ = ["MultiheadAttention"]


class MultiheadAttention(AttentionMath):
    """:class:`torch.nn.MultiheadAttention` whose projections are Linear layers and whose steps can
    be observed.

    After ``convert`` the projections take and give quantized tensors. Scores, softmax and their
    product with the values are computed in float between a DeQuantStub and a QuantStub: 8 bits over
    the whole range of the weights round those of long sequences, which are near 1 / length, to
    nothing.

    Args: those of ``torch.nn.MultiheadAttention``.

    Attributes:
        linear_Q, linear_K, linear_V, out_proj: Linear.
        q_scaling_product: FloatFunctional that multiplies the queries by ``head_dim ** -0.5``.
        dequant_q, dequant_k, dequant_v: DeQuantStub.
        quant_attn_output, quant_attn_output_weights: QuantStub.
        bias_k, bias_v: float, also after ``convert``.

    Shape, masks, arguments and results of ``forward`` are those of ``torch.nn.MultiheadAttention``,
    but outputs and attention weights of a converted module are quantized.

    Raises:
        ValueError, AssertionError: one that is both, in the constructor, for ``embed_dim`` not
            divisible by ``num_heads``.
        RuntimeError: in ``forward``, wrong ranks or sizes of inputs or masks.

    Source: ``torch.ao.nn.quantizable.MultiheadAttention``. Differences: ``is_causal``, inputs
    without a batch and, with ``batch_first``, more than one head work; ``bias_k`` and ``bias_v``
    are not rounded; it is no ``torch.nn.MultiheadAttention`` and has no parameters without use.
    """

    _FLOAT_MODULE: ClassVar[Any] = nn.MultiheadAttention

    bias_k: Any
    bias_v: Any

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        # octavo.quantization needs the modules of octavo.nn first.
        from octavo.quantization.stubs import DeQuantStub, QuantStub

        super().__init__()
        self._set_sizes(embed_dim, num_heads, dropout, add_zero_attn, kdim, vdim, batch_first)
        made = {"device": device, "dtype": dtype}
        self.linear_Q: Any = nn.Linear(embed_dim, embed_dim, bias, **made)
        self.linear_K: Any = nn.Linear(self.kdim, embed_dim, bias, **made)
        self.linear_V: Any = nn.Linear(self.vdim, embed_dim, bias, **made)
        self.out_proj: Any = nn.Linear(embed_dim, embed_dim, bias, **made)
        self.q_scaling_product = FloatFunctional()
        self.quant_attn_output, self.quant_attn_output_weights = QuantStub(), QuantStub()
        self.dequant_q, self.dequant_k, self.dequant_v = (DeQuantStub() for _ in range(3))
        for name in ("bias_k", "bias_v"):
            extra = nn.Parameter(torch.empty(1, 1, embed_dim, **made)) if add_bias_kv else None
            self.register_parameter(name, extra)
            if extra is not None:
                nn.init.xavier_normal_(extra)
        self._finish_parts()

    def _finish_parts(self) -> None:
        """For the quantized form, which replaces them."""

    def _get_name(self) -> str:
        return "QuantizableMultiheadAttention"

    def _projection_biases(self) -> list[Tensor | None]:
        return [_float_parameters(part)[1] for part in self._projections()]

    def _projections(self) -> tuple[Any, Any, Any]:
        return self.linear_Q, self.linear_K, self.linear_V

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        batched = self._check_inputs(query, key, value)
        if not batched:
            query, key, value = (t.unsqueeze(0) for t in (query, key, value))
        elif not self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        # While it is calibrated or trained, a module computes the weights even where nobody asks
        # for them, since their range has to be known.
        observed = not isinstance(query, QTensor)
        scaled = self.q_scaling_product.mul_scalar(self.linear_Q(query), self._query_scale())
        heads = Heads(
            self.dequant_q(scaled),
            self.dequant_k(self.linear_K(key)),
            self.dequant_v(self.linear_V(value)),
        )
        attended, weights = self._attend(
            Heads(*map(self._split_heads, heads)),
            key_padding_mask,
            need_weights or observed,
            attn_mask,
            is_causal,
            1.0,
        )
        out = self.out_proj(self.quant_attn_output(attended))
        if weights is not None:
            weights = self.quant_attn_output_weights(weights)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        weights = weights if need_weights else None
        if not batched:
            return out[0], None if weights is None else weights[0]
        return out if self.batch_first else out.transpose(0, 1), weights

    def _adopted(self) -> None:
        """Takes off what torch.ao's module has without use, after one has got this class."""
        for name in ("in_proj_weight", "in_proj_bias"):
            self._parameters.pop(name, None)
        for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
            self._parameters.pop(name, None)
        vars(self).pop("_qkv_same_embed_dim", None)
        for name in ("bias_k", "bias_v"):
            quantized = vars(self).pop(name, None)  # in a converted module
            if quantized is not None:
                self.register_parameter(name, nn.Parameter(quantized.dequantize()))
            elif name not in self._parameters:
                self.register_parameter(name, None)

    def _query_scale(self) -> float:
        return 1.0 / math.sqrt(self.head_dim)

    def dequantize(self) -> nn.MultiheadAttention:
        """A float ``torch.nn.MultiheadAttention`` with the weights of this module, which may be
        quantized.

        Source: ``torch.ao.nn.quantizable.MultiheadAttention.dequantize``.
        """
        weights, biases = zip(*map(_float_parameters, self._projections()), strict=True)
        result = nn.MultiheadAttention(
            self.embed_dim,
            self.num_heads,
            self.dropout,
            biases[0] is not None,
            self.bias_k is not None,
            self.add_zero_attn,
            self.kdim,
            self.vdim,
            self.batch_first,
        )
        state = {
            name: tensor.detach().clone()
            for name, tensor in (("bias_k", self.bias_k), ("bias_v", self.bias_v))
            if tensor is not None
        }
        if result._qkv_same_embed_dim:
            state["in_proj_weight"] = torch.cat(weights)
        else:
            names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
            state.update(zip(names, weights, strict=True))
        state["out_proj.weight"], out_bias = _float_parameters(self.out_proj)
        if biases[0] is not None and out_bias is not None:
            state["in_proj_bias"], state["out_proj.bias"] = torch.cat(biases), out_bias
        result.load_state_dict(state)
        return result.train(self.training)

    @classmethod
    def from_float(cls, other: nn.Module) -> Any:
        """From a :class:`torch.nn.MultiheadAttention` with a qconfig, with observers: those of
        ``prepare``, or in training mode the fake-quantize modules of ``prepare_qat``.

        Raises:
            TypeError: another kind of module.
            ValueError: no qconfig; parametrized weights.
        """
        from octavo.quantization.quantize import prepare
        from octavo.quantization.quantize_qat import prepare_qat

        label = source_label(cls, other)
        if not isinstance(other, cls._FLOAT_MODULE):
            raise TypeError(f"{label}: expected a torch.nn.{cls._FLOAT_MODULE.__name__}")
        if not getattr(other, "qconfig", None):
            raise ValueError(f"{label}: the float module has no qconfig")
        observed = cls(**cls._arguments_of(other), device="meta")
        observed._take_parameters(other, label)
        observed.qconfig = other.qconfig
        observed.train(other.training)
        ready = (prepare_qat if other.training else prepare)(observed, inplace=True)
        return ready

    @staticmethod
    def _arguments_of(mod: Any) -> dict[str, Any]:
        """The arguments of the constructor for a module like a float one."""
        names = "embed_dim num_heads dropout add_zero_attn kdim vdim batch_first"
        return {name: getattr(mod, name) for name in names.split()} | {
            "bias": mod.in_proj_bias is not None,
            "add_bias_kv": mod.bias_k is not None,
        }

    def _take_parameters(self, other: Any, label: str) -> None:
        split = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        check_plain_parameters(other, ("in_proj_weight", "in_proj_bias", *split), label)
        check_plain_parameters(other.out_proj, ("weight", "bias"), label)
        bias = other.in_proj_bias
        biases = (None,) * 3 if bias is None else bias.detach().clone().chunk(3)
        if other._qkv_same_embed_dim:
            weights = other.in_proj_weight.detach().clone().chunk(3)
        else:
            weights = tuple(getattr(other, name) for name in split)
        trained = getattr(other, "in_proj_weight" if other._qkv_same_embed_dim else split[0])
        for linear, weight, part in zip(self._projections(), weights, biases, strict=True):
            linear.weight = nn.Parameter(weight.detach(), trained.requires_grad)
            linear.bias = None if part is None else nn.Parameter(part, bias.requires_grad)
        self.out_proj.weight, self.out_proj.bias = other.out_proj.weight, other.out_proj.bias
        self.bias_k, self.bias_v = other.bias_k, other.bias_v

    @classmethod
    def from_observed(cls, other: nn.Module) -> Any:
        """Raises NotImplementedError: :class:`octavo.nn.quantized.MultiheadAttention` has it."""
        raise NotImplementedError(
            f"{cls.__name__}.from_observed: an octavo.nn.quantizable.MultiheadAttention is what is "
            "observed; convert(), or octavo.nn.quantized.MultiheadAttention.from_observed, makes a "
            "quantized module of it"
        )


def _float_parameters(linear: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a Linear layer, float or quantized."""
    if not callable(linear.weight):
        return linear.weight, linear.bias
    return linear.weight().dequantize(), linear.bias()
