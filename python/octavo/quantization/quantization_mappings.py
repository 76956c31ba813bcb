"""Which int8 module replaces which float module, and which modules are observed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from octavo.nn import intrinsic as nni
from octavo.nn import qat as nnqat
from octavo.nn import quantizable as nnqa
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import qat as nniqat
from octavo.nn.intrinsic import quantized as nniq
from octavo.nn.intrinsic.quantized import dynamic as nniqd
from octavo.nn.qat import dynamic as nnqatd
from octavo.nn.quantized import dynamic as nnqd
from octavo.quantization.fake_quantize import (
    default_fixed_qparams_range_0to1_fake_quant,
    default_fixed_qparams_range_neg1to1_fake_quant,
)
from octavo.quantization.stubs import DeQuantStub, QuantStub

__all__ = [
    "DEFAULT_DYNAMIC_QUANT_MODULE_MAPPINGS",
    "DEFAULT_MODULE_TO_ACT_POST_PROCESS",
    "DEFAULT_QAT_MODULE_MAPPINGS",
    "DEFAULT_STATIC_QUANT_MODULE_MAPPINGS",
    "get_default_compare_output_module_list",
    "get_default_dynamic_quant_module_mappings",
    "get_default_qat_module_mappings",
    "get_default_qconfig_propagation_list",
    "get_default_static_quant_module_mappings",
    "get_dynamic_quant_module_class",
    "get_embedding_qat_module_mappings",
    "get_embedding_static_quant_module_mappings",
    "get_static_quant_module_class",
    "no_observer_set",
]

DEFAULT_STATIC_QUANT_MODULE_MAPPINGS: dict[type, Any] = {
    QuantStub: nnq.Quantize,
    DeQuantStub: nnq.DeQuantize,
    nn.Conv1d: nnq.Conv1d,
    nn.Conv2d: nnq.Conv2d,
    nn.Conv3d: nnq.Conv3d,
    nn.ConvTranspose1d: nnq.ConvTranspose1d,
    nn.ConvTranspose2d: nnq.ConvTranspose2d,
    nn.ConvTranspose3d: nnq.ConvTranspose3d,
    nn.Embedding: nnq.Embedding,
    nn.EmbeddingBag: nnq.EmbeddingBag,
    nn.Linear: nnq.Linear,
    NonDynamicallyQuantizableLinear: nnq.Linear,
    nn.ReLU6: nnq.ReLU6,
    nn.BatchNorm1d: nnq.BatchNorm1d,
    nn.BatchNorm2d: nnq.BatchNorm2d,
    nn.BatchNorm3d: nnq.BatchNorm3d,
    nn.Dropout: nnq.Dropout,
    nn.ELU: nnq.ELU,
    nn.GELU: nnq.GELU,
    nn.GroupNorm: nnq.GroupNorm,
    nn.Hardswish: nnq.Hardswish,
    nn.InstanceNorm1d: nnq.InstanceNorm1d,
    nn.InstanceNorm2d: nnq.InstanceNorm2d,
    nn.InstanceNorm3d: nnq.InstanceNorm3d,
    nn.LayerNorm: nnq.LayerNorm,
    nn.LeakyReLU: nnq.LeakyReLU,
    nn.PReLU: nnq.PReLU,
    nn.SiLU: nnq.SiLU,
    nnq.FloatFunctional: nnq.QFunctional,
    nni.BNReLU2d: nniq.BNReLU2d,
    nni.BNReLU3d: nniq.BNReLU3d,
    nni.ConvHardtanh1d: nniq.ConvHardtanh1d,
    nni.ConvHardtanh2d: nniq.ConvHardtanh2d,
    nni.ConvHardtanh3d: nniq.ConvHardtanh3d,
    nni.ConvReLU1d: nniq.ConvReLU1d,
    nni.ConvReLU2d: nniq.ConvReLU2d,
    nni.ConvReLU3d: nniq.ConvReLU3d,
    nni.ConvAdd2d: nniq.ConvAdd2d,
    nni.ConvAddReLU2d: nniq.ConvAddReLU2d,
    nni.LinearLeakyReLU: nniq.LinearLeakyReLU,
    nni.LinearReLU: nniq.LinearReLU,
    nni.LinearTanh: nniq.LinearTanh,
    # Forms of quantization-aware training.
    nnqat.Linear: nnq.Linear,
    nnqat.Conv1d: nnq.Conv1d,
    nnqat.Conv2d: nnq.Conv2d,
    nnqat.Conv3d: nnq.Conv3d,
    nnqat.Embedding: nnq.Embedding,
    nnqat.EmbeddingBag: nnq.EmbeddingBag,
    nniqat.ConvBn1d: nnq.Conv1d,
    nniqat.ConvBn2d: nnq.Conv2d,
    nniqat.ConvBn3d: nnq.Conv3d,
    nniqat.ConvBnReLU1d: nniq.ConvReLU1d,
    nniqat.ConvBnReLU2d: nniq.ConvReLU2d,
    nniqat.ConvBnReLU3d: nniq.ConvReLU3d,
    nniqat.ConvBnHardtanh1d: nniq.ConvHardtanh1d,
    nniqat.ConvBnHardtanh2d: nniq.ConvHardtanh2d,
    nniqat.ConvBnHardtanh3d: nniq.ConvHardtanh3d,
    nniqat.ConvHardtanh1d: nniq.ConvHardtanh1d,
    nniqat.ConvHardtanh2d: nniq.ConvHardtanh2d,
    nniqat.ConvHardtanh3d: nniq.ConvHardtanh3d,
    nniqat.ConvReLU1d: nniq.ConvReLU1d,
    nniqat.ConvReLU2d: nniq.ConvReLU2d,
    nniqat.ConvReLU3d: nniq.ConvReLU3d,
    nniqat.LinearBn1d: nnq.Linear,
    nniqat.LinearLeakyReLU: nniq.LinearLeakyReLU,
    nniqat.LinearReLU: nniq.LinearReLU,
    nniqat.LinearTanh: nniq.LinearTanh,
}
"""The int8 class of each observed or trained class, for ``convert``."""

DEFAULT_QAT_MODULE_MAPPINGS: dict[type, Any] = {
    nn.Linear: nnqat.Linear,
    NonDynamicallyQuantizableLinear: nnqat.Linear,
    nn.Conv1d: nnqat.Conv1d,
    nn.Conv2d: nnqat.Conv2d,
    nn.Conv3d: nnqat.Conv3d,
    nn.Embedding: nnqat.Embedding,
    nn.EmbeddingBag: nnqat.EmbeddingBag,
    nni.ConvBn1d: nniqat.ConvBn1d,
    nni.ConvBn2d: nniqat.ConvBn2d,
    nni.ConvBn3d: nniqat.ConvBn3d,
    nni.ConvBnReLU1d: nniqat.ConvBnReLU1d,
    nni.ConvBnReLU2d: nniqat.ConvBnReLU2d,
    nni.ConvBnReLU3d: nniqat.ConvBnReLU3d,
    nni.ConvBnHardtanh1d: nniqat.ConvBnHardtanh1d,
    nni.ConvBnHardtanh2d: nniqat.ConvBnHardtanh2d,
    nni.ConvBnHardtanh3d: nniqat.ConvBnHardtanh3d,
    nni.ConvHardtanh1d: nniqat.ConvHardtanh1d,
    nni.ConvHardtanh2d: nniqat.ConvHardtanh2d,
    nni.ConvHardtanh3d: nniqat.ConvHardtanh3d,
    nni.ConvReLU1d: nniqat.ConvReLU1d,
    nni.ConvReLU2d: nniqat.ConvReLU2d,
    nni.ConvReLU3d: nniqat.ConvReLU3d,
    nni.LinearBn1d: nniqat.LinearBn1d,
    nni.LinearLeakyReLU: nniqat.LinearLeakyReLU,
    nni.LinearReLU: nniqat.LinearReLU,
    nni.LinearTanh: nniqat.LinearTanh,
}
"""The class that each float class has in training, for ``prepare_qat``."""

DEFAULT_MODULE_TO_ACT_POST_PROCESS: dict[type, Any] = {
    nn.Hardsigmoid: default_fixed_qparams_range_0to1_fake_quant,
    nn.Sigmoid: default_fixed_qparams_range_0to1_fake_quant,
    nn.Softmax: default_fixed_qparams_range_0to1_fake_quant,
    nn.Tanh: default_fixed_qparams_range_neg1to1_fake_quant,
}
"""What rounds outputs of a known range in training, as the modules themselves do on quantized
tensors."""

DEFAULT_DYNAMIC_QUANT_MODULE_MAPPINGS: dict[type, Any] = {
    nn.Linear: nnqd.Linear,
    NonDynamicallyQuantizableLinear: nnqd.Linear,
    nn.MultiheadAttention: nnqd.MultiheadAttention,
    nn.LSTM: nnqd.LSTM,
    nn.GRU: nnqd.GRU,
    nn.LSTMCell: nnqd.LSTMCell,
    nn.GRUCell: nnqd.GRUCell,
    nn.RNNCell: nnqd.RNNCell,
    nn.Embedding: nnq.Embedding,
    nn.EmbeddingBag: nnq.EmbeddingBag,
    nn.Conv1d: nnqd.Conv1d,
    nn.Conv2d: nnqd.Conv2d,
    nn.Conv3d: nnqd.Conv3d,
    nn.ConvTranspose1d: nnqd.ConvTranspose1d,
    nn.ConvTranspose2d: nnqd.ConvTranspose2d,
    nn.ConvTranspose3d: nnqd.ConvTranspose3d,
    nni.ConvReLU1d: nniqd.ConvReLU1d,
    nni.ConvReLU2d: nniqd.ConvReLU2d,
    nni.ConvReLU3d: nniqd.ConvReLU3d,
    nni.LinearReLU: nniqd.LinearReLU,
    nnqatd.Linear: nnqd.Linear,
}
"""The int8 class of each float class, for ``quantize_dynamic``."""

# Modules that are observed part by part: float class to observed class to int8 class.
CUSTOM_OBSERVED: dict[type, Any] = {
    nn.LSTM: nnqa.LSTM,
    nn.MultiheadAttention: nnqa.MultiheadAttention,
}
CUSTOM_QUANTIZED: dict[type, Any] = {
    nnqa.LSTM: nnq.LSTM,
    nnqa.MultiheadAttention: nnq.MultiheadAttention,
}

# Where Hugging Face transformers defines its Conv1D, today and in older versions.
_TRANSFORMERS = ("transformers.pytorch_utils", "transformers.modeling_utils")


def get_default_static_quant_module_mappings() -> dict[type, Any]:
    """Float class to int8 class, for post-training static quantization; a copy that may be changed.

    Source: ``torch.ao.quantization.get_default_static_quant_module_mappings``.
    """
    return dict(DEFAULT_STATIC_QUANT_MODULE_MAPPINGS)


def get_static_quant_module_class(
    float_module_class: type,
    additional_static_quant_mapping: Mapping[type, Any] | None = None,
    is_reference: bool = False,
) -> Any:
    """The int8 class of a float class; entries of the additional mapping win.

    Raises:
        ValueError: there is none.
        NotImplementedError: ``is_reference``.

    Source: ``torch.ao.quantization.get_static_quant_module_class``.
    """
    if is_reference:
        raise NotImplementedError("get_static_quant_module_class: there are no reference modules")
    mapping = {**DEFAULT_STATIC_QUANT_MODULE_MAPPINGS, **(additional_static_quant_mapping or {})}
    if float_module_class not in mapping:
        raise ValueError(
            f"get_static_quant_module_class: {float_module_class} has no int8 class; known: "
            f"{sorted(known.__name__ for known in mapping)}"
        )
    return mapping[float_module_class]


def get_default_dynamic_quant_module_mappings() -> dict[type, Any]:
    """Float class to the class that quantizes its inputs when it runs; a copy that may be changed.

    The ``Conv1D`` of Hugging Face transformers is in it where that package has been imported.

    Source: ``torch.ao.quantization.get_default_dynamic_quant_module_mappings``, which lacks
    convolutions and MultiheadAttention.
    """
    homes = [sys.modules[name] for name in _TRANSFORMERS if name in sys.modules]
    theirs = {home.Conv1D: nnqd.Linear for home in homes if hasattr(home, "Conv1D")}
    return {**DEFAULT_DYNAMIC_QUANT_MODULE_MAPPINGS, **theirs}


def get_default_qat_module_mappings() -> dict[type, Any]:
    """Float class to the class that is trained in its place; a copy that may be changed.

    Source: ``torch.ao.quantization.get_default_qat_module_mappings``, which lacks Conv1d,
    ConvReLU1d and embeddings.
    """
    return dict(DEFAULT_QAT_MODULE_MAPPINGS)


def get_embedding_qat_module_mappings() -> dict[type, Any]:
    """:func:`get_default_qat_module_mappings`, which has embeddings here.

    Source: ``torch.ao.quantization.get_embedding_qat_module_mappings``.
    """
    return get_default_qat_module_mappings()


def get_embedding_static_quant_module_mappings() -> dict[type, Any]:
    """:func:`get_default_static_quant_module_mappings`, which has the embeddings of training too.

    Source: ``torch.ao.quantization.get_embedding_static_quant_module_mappings``.
    """
    return get_default_static_quant_module_mappings()


def get_dynamic_quant_module_class(
    float_module_class: type,
    additional_dynamic_quant_mapping: Mapping[type, Any] | None = None,
) -> Any:
    """The dynamically quantized class of a float class; entries of the additional mapping win.

    Raises:
        ValueError: there is none.

    Source: ``torch.ao.quantization.get_dynamic_quant_module_class``.
    """
    mapping = {
        **get_default_dynamic_quant_module_mappings(),
        **(additional_dynamic_quant_mapping or {}),
    }
    if float_module_class not in mapping:
        raise ValueError(
            f"get_dynamic_quant_module_class: {float_module_class} has no dynamically quantized "
            f"class; known: {sorted(known.__name__ for known in mapping)}"
        )
    return mapping[float_module_class]


def get_default_qconfig_propagation_list() -> set[type]:
    """The float classes whose outputs ``prepare`` observes.

    Source: ``torch.ao.quantization.get_default_qconfig_propagation_list``.
    """
    return set(DEFAULT_STATIC_QUANT_MODULE_MAPPINGS) | {nn.Sequential}


def get_default_compare_output_module_list() -> set[type]:
    """The classes whose outputs the numeric suite records: all that the mappings have on either
    side.

    Source: ``torch.ao.quantization.get_default_compare_output_module_list``.
    """
    tables = (
        DEFAULT_STATIC_QUANT_MODULE_MAPPINGS,
        DEFAULT_QAT_MODULE_MAPPINGS,
        DEFAULT_DYNAMIC_QUANT_MODULE_MAPPINGS,
    )
    values = {ours for table in tables for ours in table.values()}
    return {float_class for table in tables for float_class in table} | values | {nn.Sequential}


def no_observer_set() -> set[type]:
    """Observed custom classes that get no observer of their own.

    Source: ``torch.ao.quantization.no_observer_set``.
    """
    return {nnqa.LSTM, nnqa.MultiheadAttention}
