"""The numeric suite, under the names of ``torch.ao.ns._numeric_suite``.

:func:`octavo.quantization.compare_layers` says the same in one table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import Tensor, nn

from octavo.dtypes import quint8
from octavo.nn.quantized import DeQuantize, FXFloatFunctional, QFunctional
from octavo.quantization.numeric_suite import compare_weights
from octavo.quantization.quantization_mappings import get_default_compare_output_module_list
from octavo.quantization.units import canonical_type, is_leaf, is_whole, iter_modules
from octavo.tensor import QTensor

__all__ = [
    "Logger",
    "OutputLogger",
    "Shadow",
    "ShadowLogger",
    "compare_model_outputs",
    "compare_model_stub",
    "compare_weights",
    "get_default_compare_output_module_list",
    "get_logger_dict",
    "get_matching_activations",
    "prepare_model_outputs",
    "prepare_model_with_stubs",
]

_LOGGER = "_output_logger"
_FUNCTIONALS = (FXFloatFunctional, QFunctional)

Stats = dict[str, Any]


class Logger(nn.Module):
    """Base of the modules that record tensors, in ``stats``."""

    def __init__(self) -> None:
        super().__init__()
        self.stats: Stats = {}
        self.dtype = quint8

    def forward(self, x: Any) -> Any:
        """Records nothing."""


class ShadowLogger(Logger):
    """Records what a quantized module and its float shadow give: ``stats["quantized"]`` and
    ``stats["float"]``, lists of tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stats["float"] = []
        self.stats["quantized"] = []

    def forward(self, x: Any, y: Any) -> None:  # type: ignore[override]
        self.stats["quantized"].append(_first(x).detach())
        self.stats["float"].append(_first(y).detach())


class OutputLogger(Logger):
    """Records the outputs of a module: ``stats["tensor_val"]``, a list."""

    def __init__(self) -> None:
        super().__init__()
        self.stats["tensor_val"] = []

    def forward(self, x: Any) -> Any:
        self.stats["tensor_val"].append(x)
        return x


def _first(x: Any) -> Tensor:
    result: Tensor = x[0] if isinstance(x, (tuple, list)) else x
    return result


def _float(x: Any) -> Any:
    if isinstance(x, (tuple, list)):
        return type(x)(_float(item) for item in x)
    return x.dequantize() if isinstance(x, QTensor) else x


class Shadow(nn.Module):
    """A quantized module that shows its outputs, and those of a float one for the same inputs, to a
    logger.

    Args:
        q_module: what it computes.
        float_module: the shadow.
        logger_cls: makes the logger, which is called with both outputs.
    """

    def __init__(
        self, q_module: nn.Module, float_module: nn.Module, logger_cls: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.orig_module, self.shadow_module = q_module, float_module
        self.dequant = DeQuantize()
        self.logger = logger_cls()

    def forward(self, *x: Any) -> Any:
        return self._both("__call__", *x)

    def _both(self, method: str, *x: Any) -> Any:
        output = getattr(self.orig_module, method)(*x)
        self.logger(output, getattr(self.shadow_module, method)(*map(_float, x)))
        return output

    def add(self, x: Tensor, y: Tensor) -> Any:
        return self._both("add", x, y)

    def add_scalar(self, x: Tensor, y: float) -> Any:
        return self._both("add_scalar", x, y)

    def mul(self, x: Tensor, y: Tensor) -> Any:
        return self._both("mul", x, y)

    def mul_scalar(self, x: Tensor, y: float) -> Any:
        return self._both("mul_scalar", x, y)

    def cat(self, x: Sequence[Tensor], dim: int = 0) -> Any:
        return self._both("cat", x, dim)

    def add_relu(self, x: Tensor, y: Tensor) -> Any:
        return self._both("add_relu", x, y)

    def matmul(self, x: Tensor, y: Tensor) -> Any:
        return self._both("matmul", x, y)


def get_logger_dict(mod: nn.Module, prefix: str = "") -> dict[str, Stats]:
    """What the loggers inside of a model recorded: ``"conv.stats"`` to the ``stats`` of the one in
    ``conv``.

    Args:
        mod: the model.
        prefix: in front of all names.
    """
    result = {}
    start = f"{prefix}." if prefix else ""
    for name, module in mod.named_modules():
        if isinstance(module, Logger):
            place = name.rpartition(".")[0]
            result[f"{start}{place}.stats" if place else f"{start}stats"] = module.stats
    return result


def prepare_model_with_stubs(
    float_module: nn.Module,
    q_module: nn.Module,
    module_swap_list: Collection[type],
    logger_cls: Callable[[], nn.Module],
) -> None:
    """Replaces modules of ``q_module`` by a :class:`Shadow` with the float one of the same name, in
    place.

    Args:
        float_module: the float model, which is not run as a whole.
        q_module: the int8 model made of it.
        module_swap_list: float classes.
        logger_cls: see :class:`Shadow`.
    """
    theirs = dict(float_module.named_children())
    for name, module in list(q_module.named_children()):
        shadow = theirs.get(name)
        if shadow is None:
            continue
        if canonical_type(shadow) not in module_swap_list:
            prepare_model_with_stubs(shadow, module, module_swap_list, logger_cls)
        elif [type(part) for part in module.modules()] != [type(p) for p in shadow.modules()]:
            q_module._modules[name] = Shadow(module, shadow, logger_cls)


def compare_model_stub(
    float_model: nn.Module,
    q_model: nn.Module,
    module_swap_list: Collection[type],
    *data: Any,
    logger_cls: Callable[[], nn.Module] = ShadowLogger,
) -> dict[str, Stats]:
    """Each quantized module beside its float one, both with the inputs that the int8 model gives
    the first.

    Args:
        float_model, q_model, module_swap_list, logger_cls: see :func:`prepare_model_with_stubs`,
            which changes ``q_model``.
        data: arguments of one call.

    Returns:
        ``"conv.stats"`` to ``{"float": [...], "quantized": [...]}``.
    """
    prepare_model_with_stubs(float_model, q_model, module_swap_list, logger_cls)
    q_model(*data)
    return {name.replace(".logger", ""): stats for name, stats in get_logger_dict(q_model).items()}


def prepare_model_outputs(
    float_module: nn.Module,
    q_module: nn.Module,
    logger_cls: Callable[[], nn.Module] = OutputLogger,
    allow_list: Collection[type] | None = None,
) -> None:
    """Puts a logger on the output of each layer of both models, in place.

    Args:
        float_module, q_module: the models.
        logger_cls: makes a logger, which is called with an output.
        allow_list: classes of layers; default: :func:`get_default_compare_output_module_list`.

    Functionals, which have no forward, get none.
    """
    kinds = set(get_default_compare_output_module_list() if allow_list is None else allow_list)
    for model in (float_module, q_module):
        for _, module in list(iter_modules(model)):
            layer = is_leaf(module) or is_whole(module)
            wanted = layer and not isinstance(module, _FUNCTIONALS)
            if wanted and canonical_type(module) in kinds:
                module.add_module(_LOGGER, logger_cls())
                module.register_forward_hook(_log)


def _log(module: nn.Module, args: Any, output: Any) -> None:
    getattr(module, _LOGGER)(output)


def get_matching_activations(
    float_module: nn.Module, q_module: nn.Module
) -> dict[str, dict[str, list[Any]]]:
    """What the loggers of :func:`prepare_model_outputs` recorded at the same names of both models:
    ``"conv.stats"`` to ``{"float": [...], "quantized": [...]}``.
    """
    wanted = get_logger_dict(float_module)
    return {
        name: {"float": wanted[name]["tensor_val"], "quantized": stats["tensor_val"]}
        for name, stats in get_logger_dict(q_module).items()
        if name in wanted and stats["tensor_val"]
    }


def compare_model_outputs(
    float_model: nn.Module,
    q_model: nn.Module,
    *data: Any,
    logger_cls: Callable[[], nn.Module] = OutputLogger,
    allow_list: Collection[type] | None = None,
) -> dict[str, dict[str, list[Any]]]:
    """The outputs of the layers of both models for the same input, see
    :func:`get_matching_activations`. The models keep the loggers.

    Args: see :func:`prepare_model_outputs`;
        data: arguments of one call.
    """
    prepare_model_outputs(float_model, q_model, logger_cls, allow_list)
    float_model(*data)
    q_model(*data)
    return get_matching_activations(float_model, q_model)
