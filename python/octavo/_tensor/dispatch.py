"""The table of torch functions that QTensor supports, and the refusal of all others.

A handler is registered under every callable through which torch may report a call: the function in
`torch`, the method of `torch.Tensor`, the function in `torch.nn.functional`, the builtin behind it.
Names that a torch version lacks are skipped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

Handler = Callable[..., Any]
_H = TypeVar("_H", bound=Handler)

HANDLERS: dict[Any, Handler] = {}

# The same by the names of the callables, for what cannot look up functions; methods come first.
HANDLERS_BY_NAME: dict[str, Handler] = {}

_RECURRENT_CODE = {
    layer.__name__.removesuffix("Cell").lower() + suffix: layer.forward.__code__
    for suffix, layers in (
        ("", (nn.LSTM, nn.GRU, nn.RNN)),
        ("_cell", (nn.LSTMCell, nn.GRUCell, nn.RNNCell)),
    )
    for layer in layers
}

RECURRENT_LAYERS = {id(code): operation for operation, code in _RECURRENT_CODE.items()}
"""Float layers that make a tensor of their input's dtype before they call anything that would
refuse a QTensor: the names of their operations by the id of their code, which hashes slowly."""

_NAMESPACES: tuple[Any, ...] = (torch, torch.Tensor, F, torch._C._nn)

_ADVICE_DEQUANTIZE = (
    "Call dequantize() first and, where the model goes on in int8, quantize the result again "
    "(in a model: DeQuantStub before, QuantStub after)."
)
_ADVICE_INT = "Use dequantize() for the values in float32 or int_repr() for the stored integers."
_ADVICE_FLOAT_OP = (
    "This operation computes in float. To run it in float, put a DeQuantStub before it and a "
    "QuantStub after it; to run it in int8, use a module that prepare() and convert() know and "
    "give it a qconfig."
)


def _functional(method: str, scalar_method: str | None = None) -> str:
    number = f" ({scalar_method} for a number)" if scalar_method else ""
    return (
        "Its result needs a scale of its own: use "
        f"octavo.nn.quantized.FloatFunctional().{method}{number} in the model before prepare(), "
        "or dequantize() the operands."
    )


_ADVICE: dict[str, str] = {}
for _names, _advice in (
    ("add radd iadd", _functional("add", "add_scalar")),
    ("mul rmul imul multiply", _functional("mul", "mul_scalar")),
    (
        "float double half bfloat16 int long short char byte bool to type numpy array dlpack "
        "array_interface",
        _ADVICE_INT,
    ),
    (
        "linear bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d "
        "batch_norm layer_norm group_norm instance_norm rms_norm local_response_norm embedding "
        "embedding_bag softmax log_softmax gelu silu mish elu celu selu prelu hardswish "
        "hardsigmoid sigmoid tanh softplus matmul bmm mm addmm einsum scaled_dot_product_attention "
        "multi_head_attention_forward lstm gru rnn rnn_tanh rnn_relu lstm_cell gru_cell rnn_cell",
        _ADVICE_FLOAT_OP,
    ),
):
    _ADVICE.update(dict.fromkeys(_names.split(), _advice))


def register(*names: str) -> Callable[[_H], _H]:
    """Register the decorated handler for every torch callable with one of these names."""

    def decorate(handler: _H) -> _H:
        for name in names:
            HANDLERS_BY_NAME[name] = handler
            for namespace in _NAMESPACES:
                function = getattr(namespace, name, None)
                if callable(function):
                    HANDLERS[function] = handler
        return handler

    return decorate


def register_wrapped(wrap: Callable[[str, Handler], Handler], *names: str) -> None:
    """Register `wrap(name, function)` for every torch callable that has one of these names."""
    for name in names:
        for namespace in _NAMESPACES:
            function = getattr(namespace, name, None)
            if callable(function):
                HANDLERS[function] = wrap(name, function)
                if namespace is torch.Tensor or name not in HANDLERS_BY_NAME:
                    HANDLERS_BY_NAME[name] = HANDLERS[function]


def register_getters(handler: Callable[[Any], Handler], *names: str) -> None:
    """Register `handler(getter)` for reading each of these attributes of torch.Tensor."""
    for name in names:
        descriptor = getattr(torch.Tensor, name, None)
        if descriptor is not None and hasattr(descriptor, "__get__"):
            HANDLERS[descriptor.__get__] = handler(descriptor.__get__)


def refuse(function: Any, args: Any, advice: str | None = None) -> NoReturn:
    """Raise the error for a call of `function` (a torch callable or a name) that QTensor does not
    support.

    Raises:
        TypeError: always; AttributeError where `function` reads or writes an attribute.
    """
    name = function if isinstance(function, str) else getattr(function, "__name__", str(function))
    accessor = name in ("__get__", "__set__", "__delete__")
    if accessor:
        owner = getattr(function, "__self__", None)
        name = getattr(owner, "__name__", getattr(getattr(owner, "fget", None), "__name__", name))
    word = name.strip("_")
    if advice is None:
        advice = _ADVICE.get(word, _ADVICE_DEQUANTIZE)
    shown = f"attribute {name!r}" if accessor else f"{name}()"
    got = next(describe_all(args), "a quantized tensor")
    message = f"{calling_module()}{shown} does not support {got}. {advice}"
    raise AttributeError(message) if accessor else TypeError(message)


def describe_all(args: Any) -> Iterator[str]:
    """A description of each QTensor within nested arguments."""
    if isinstance(args, (list, tuple)):
        for arg in args:
            yield from describe_all(arg)
    elif isinstance(args, dict):
        yield from describe_all(list(args.values()))
    elif getattr(args, "_qdtype", None) is not None:
        yield f"a quantized tensor ({args._qdtype}, shape {list(args._int.shape)})"


def calling_module() -> str:
    """`"Linear 'fc': "` if the call came from inside that module's code, else an empty string.

    Looked up on the stack, so that an operation refused inside a float module names the module.
    """
    inner: torch.nn.Module | None = None
    outer: torch.nn.Module | None = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        candidate = frame.f_locals.get("self")
        if isinstance(candidate, torch.nn.Module):
            inner = candidate if inner is None else inner
            outer = candidate
        frame = frame.f_back
    if inner is None or outer is None:
        return ""
    name = next((name for name, module in outer.named_modules() if module is inner), "")
    return f"{type(inner).__name__} {name!r}: " if name else f"{type(inner).__name__}: "
