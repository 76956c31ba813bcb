"""How to quantize a model: settings for all of it, and others for some of its modules.

    config = StaticQuantConfig(act_algo="percentile").set_local("head", None)

The names are those of Neural Compressor's PyTorch configs; every value is checked when it is given.
"""

from __future__ import annotations

import difflib
import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from octavo.dtypes import (
    per_channel_affine,
    per_channel_symmetric,
    per_tensor_affine,
    per_tensor_symmetric,
    qint8,
    quint8,
)
from octavo.quantization.observer import (
    HistogramObserver,
    MinMaxObserver,
    MSEObserver,
    PercentileObserver,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
)
from octavo.quantization.qconfig import QConfig
from octavo.quantization.units import canonical_type

__all__ = ["OBSERVERS", "DynamicQuantConfig", "QuantConfig", "StaticQuantConfig", "near"]

OBSERVERS: dict[str, Any] = {
    "minmax": MinMaxObserver,
    "kl": HistogramObserver,
    "percentile": PercentileObserver,
    "mse": MSEObserver,
}
_DTYPES = {"uint8": quint8, "int8": qint8}
_FLOAT = "fp32"
_SHOWN = 8  # of the paths of a model, in messages


def near(name: str, known: Iterable[str], lead: str = "; did you mean ") -> str:
    """``"; did you mean 'a' or 'b'?"`` for the known names that are like a name, or ""."""
    close = difflib.get_close_matches(name, list(known), n=3)
    return f"{lead}{' or '.join(map(repr, close))}?" if close else ""


def _enumerated(paths: Sequence[str]) -> str:
    """The first paths of a model, and how many others there are."""
    shown = ", ".join(map(repr, paths[:_SHOWN])) or "no modules inside of it"
    left = len(paths) - _SHOWN
    return f"{shown} and {left} more" if left > 0 else shown


class QuantConfig(ABC):
    """What :class:`StaticQuantConfig` and :class:`DynamicQuantConfig` have in common.

    Every setting is an attribute. A list of values stands for all of them, which only
    :func:`octavo.autotune` takes: it tries every combination, see :meth:`expanded`.

    Attributes:
        local: the rules of :meth:`set_local`, in the order in which they were given.
    """

    _CHOICES: ClassVar[dict[str, tuple[Any, ...]]] = {}

    def __init__(self, settings: Mapping[str, Any], unknown: Collection[str]) -> None:
        for name in unknown:
            raise TypeError(
                f"{type(self).__name__}: unknown setting {name!r}{near(name, settings)}; there "
                f"are {', '.join(settings)}"
            )
        self._names = tuple(settings)
        for name, value in settings.items():
            self._check(name, value)
            setattr(self, name, list(value) if isinstance(value, (list, tuple)) else value)
        self.local: list[tuple[str | type[nn.Module], QuantConfig | None]] = []
        if not self._is_grid():
            self._check_together()

    def _check(self, name: str, value: Any) -> None:
        choices = self._CHOICES.get(name)
        if choices is None:
            return
        values = value if isinstance(value, (list, tuple)) else [value]
        if not values:
            raise ValueError(f"{type(self).__name__}: {name} is an empty list; give a value")
        for one in values:
            if not any(one is choice or (type(one) is str and one == choice) for choice in choices):
                text = [choice for choice in choices if isinstance(choice, str)]
                raise ValueError(
                    f"{type(self).__name__}: {name} must be one of "
                    f"{', '.join(map(repr, choices))}, got {one!r}{near(str(one), text)}"
                )

    def _check_together(self) -> None:
        """Raises ValueError for values that do not go together."""
        name, given = type(self).__name__, self.settings
        if given["w_algo"] != "minmax" and given["w_granularity"] == "per_channel":
            raise ValueError(
                f"{name}: w_algo={given['w_algo']!r} is for w_granularity='per_tensor'; weights "
                "per channel have w_algo='minmax'"
            )
        if given["act_dtype"] == _FLOAT and given["w_dtype"] != _FLOAT:
            raise ValueError(
                f"{name}: act_dtype='fp32' needs w_dtype='fp32', which leaves modules float; int8 "
                "weights with float activations are not computed with"
            )

    def _is_grid(self) -> bool:
        return any(isinstance(getattr(self, name), list) for name in self._names)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by name, without the local ones."""
        return {name: getattr(self, name) for name in self._names}

    @property
    def leaves_float(self) -> bool:
        """Whether it says to quantize nothing: ``w_dtype="fp32"``."""
        return bool(self.settings["w_dtype"] == _FLOAT)

    def qconfig(self) -> QConfig | None:
        """The observers that it stands for; None where it leaves modules float.

        Raises:
            ValueError: a setting with several values.
        """
        for name, value in self.settings.items():
            if isinstance(value, list):
                raise ValueError(
                    f"{type(self).__name__}: {name} has {len(value)} values, {value}; "
                    "octavo.autotune() tries them all, quantize() and prepare() need one"
                )
        return None if self.leaves_float else self._observers()

    @abstractmethod
    def _observers(self) -> QConfig:
        """The observers of settings that have one value each."""

    def expanded(self) -> list[QuantConfig]:
        """A config for every combination of the values that are lists; local rules stay."""
        choices = [v if isinstance(v, list) else [v] for v in self.settings.values()]
        result = []
        for values in itertools.product(*choices):
            config = type(self)(**dict(zip(self._names, values, strict=True)))
            config.local = list(self.local)
            result.append(config)
        return result

    def set_local(
        self,
        operators: str | type[nn.Module] | Sequence[str | type[nn.Module]],
        config: QuantConfig | None,
    ) -> Any:
        """Gives some modules a config of their own.

        Args:
            operators: the path of a module, which applies to all in it; a regular expression, for
                all modules whose whole path it matches; a class; or a list of these. Paths come
                before expressions, and these before classes; of several that fit the last one
                counts, of paths the longest.
            config: what applies to them. None, or ``w_dtype="fp32"``, leaves them float. A
                DynamicQuantConfig inside of a StaticQuantConfig quantizes them dynamically.

        Returns:
            This config.

        Raises:
            TypeError: something else; a static config inside of a dynamic one.
            ValueError: no regular expression; a local config with local rules of its own.

        Names that a model does not have are an error where the model is known, in ``quantize`` and
        ``prepare``.
        """
        several = isinstance(operators, Sequence) and not isinstance(operators, str)
        rules: Any = list(operators) if several else [operators]  # type: ignore[arg-type]
        self._check_local(config)
        for rule in rules:
            if isinstance(rule, type) and issubclass(rule, nn.Module):
                continue
            if not isinstance(rule, str):
                raise TypeError(
                    "set_local: expected a module's path, a regular expression, a subclass of "
                    f"torch.nn.Module, or a list of these, got {rule!r}"
                )
            try:
                re.compile(rule)
            except re.error as error:
                raise ValueError(
                    f"set_local: {rule!r} is neither a path nor a regular expression: {error}"
                ) from None
        self.local += [(rule, config) for rule in rules]
        return self

    def _check_local(self, config: Any) -> None:
        if config is None:
            return
        if not isinstance(config, QuantConfig):
            raise TypeError(
                "set_local: config must be a StaticQuantConfig, a DynamicQuantConfig or None, got "
                f"{config!r}"
            )
        if config.local:
            raise ValueError("set_local: the config for some modules has local rules of its own")
        if isinstance(self, DynamicQuantConfig) and isinstance(config, StaticQuantConfig):
            raise TypeError(
                "set_local: a DynamicQuantConfig is used without calibration, so it cannot hold a "
                "StaticQuantConfig; start from a StaticQuantConfig and give other modules a "
                "DynamicQuantConfig"
            )

    def resolve(self, model: nn.Module) -> dict[str, QuantConfig | None]:
        """The config of every module of a model by its path, "" for the model; None for float.

        Raises:
            ValueError: a path or expression that matches nothing; names like it are in the message.
        """
        modules = dict(model.named_modules(remove_duplicate=False))
        self._check_matches(modules)
        return {name: self._config_of(name, module, modules) for name, module in modules.items()}

    def _check_matches(self, modules: Mapping[str, nn.Module]) -> None:
        for rule, _ in self.local:
            if isinstance(rule, type):
                if not any(issubclass(canonical_type(m), rule) for m in modules.values()):
                    kinds = sorted({canonical_type(m).__name__ for m in modules.values()})
                    raise ValueError(
                        f"set_local: the model has no {rule.__name__}; it has {', '.join(kinds)}"
                    )
            elif rule not in modules and not any(re.fullmatch(rule, name) for name in modules):
                paths = [name for name in modules if name]
                kinds = sorted({canonical_type(m).__name__ for m in modules.values()})
                hint = near(rule, paths) or f"; it has {_enumerated(paths)}"
                if rule in kinds:
                    hint = f"; for the class of that name give the class, not {rule!r}"
                raise ValueError(f"set_local: no module of the model is named {rule!r}{hint}")

    def _config_of(
        self, name: str, module: nn.Module, modules: Mapping[str, nn.Module]
    ) -> QuantConfig | None:
        found: QuantConfig | None = self
        best = (0, 0)  # kind of the rule, length of a path
        for rule, config in self.local:
            if isinstance(rule, type):
                fits = (1, 0) if issubclass(canonical_type(module), rule) else (0, 0)
            elif rule in modules:
                inside = name == rule or not rule or name.startswith(f"{rule}.")
                fits = (3, len(rule)) if inside else (0, 0)
            else:
                fits = (2, 0) if re.fullmatch(rule, name) else (0, 0)
            if fits != (0, 0) and fits >= best:
                found, best = config, fits
        return None if found is None or found.leaves_float else found

    def __eq__(self, other: object) -> bool:
        return (
            type(other) is type(self)
            and isinstance(other, QuantConfig)
            and (self.settings, self.local) == (other.settings, other.local)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        text = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        rules = "".join(
            f".set_local({rule if isinstance(rule, str) else rule.__name__}, {config!r})"
            for rule, config in self.local
        )
        return f"{type(self).__name__}({text}){rules}"

    def changes(self) -> str:
        """What differs from the defaults, for tables."""
        defaults = type(self)().settings  # type: ignore[call-arg]
        changed = [f"{k}={v!r}" for k, v in self.settings.items() if v != defaults[k]]
        return f"{type(self).__name__}({', '.join(changed)})"


class StaticQuantConfig(QuantConfig):
    """int8 weights and int8 activations, whose scales come from calibration data.

    Args:
        w_dtype: ``"int8"``, or ``"fp32"`` to leave modules float.
        w_sym: weights without zero points, -128..127 around 0.
        w_granularity: ``"per_channel"``: a scale for each output channel; ``"per_tensor"``.
        w_algo: how a weight's interval is chosen, as ``act_algo``; per channel ``"minmax"`` only.
        act_dtype: ``"uint8"`` or ``"int8"``; ``"fp32"`` goes with ``w_dtype="fp32"``.
        act_sym: one magnitude on both sides of 0; else from the least to the greatest value.
        act_granularity: ``"per_tensor"``; the scales of static activations are fixed before their
            shapes are known.
        act_algo: how an activation's interval is chosen. ``"minmax"``: all that was seen; ``"kl"``:
            from a histogram, leaving out tails where that lowers the error (Octavo's and
            ``get_default_qconfig``'s default; Neural Compressor's is minmax); ``"percentile"``:
            leaving out a share of the values; ``"mse"``: the least mean squared error.
        percentile: for ``act_algo="percentile"``, the share to keep, in percent.
        reduce_range: 7 bits for activations, as torch's ``"x86"`` settings have. Octavo's kernels
            never need it.

    Raises:
        TypeError: an unknown setting.
        ValueError: an unknown value, or values that do not go together.

    Source: Neural Compressor's ``INT8StaticQuantConfig``.
    """

    _CHOICES: ClassVar[dict[str, tuple[Any, ...]]] = {
        "w_dtype": ("int8", _FLOAT),
        "w_sym": (True, False),
        "w_granularity": ("per_channel", "per_tensor"),
        "w_algo": tuple(OBSERVERS),
        "act_dtype": ("uint8", "int8", _FLOAT),
        "act_sym": (True, False),
        "act_granularity": ("per_tensor",),
        "act_algo": tuple(OBSERVERS),
        "reduce_range": (True, False),
    }

    def __init__(
        self,
        w_dtype: str | list[str] = "int8",
        w_sym: bool | list[bool] = True,
        w_granularity: str | list[str] = "per_channel",
        w_algo: str | list[str] = "minmax",
        act_dtype: str | list[str] = "uint8",
        act_sym: bool | list[bool] = False,
        act_granularity: str | list[str] = "per_tensor",
        act_algo: str | list[str] = "kl",
        *,
        percentile: float | list[float] = 99.99,
        reduce_range: bool | list[bool] = False,
        **unknown: Any,
    ) -> None:
        settings = {k: v for k, v in locals().items() if k not in ("self", "unknown", "__class__")}
        super().__init__(settings, tuple(unknown))

    w_dtype: Any
    w_sym: Any
    w_granularity: Any
    w_algo: Any
    act_dtype: Any
    act_sym: Any
    act_granularity: Any
    act_algo: Any
    percentile: Any
    reduce_range: Any

    def _check(self, name: str, value: Any) -> None:
        super()._check(name, value)
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if name == "percentile" and not (isinstance(one, (int, float)) and 0 < one <= 100):
                raise ValueError(
                    f"StaticQuantConfig: percentile must be above 0 and at most 100, got {one!r}"
                )

    def _observers(self) -> QConfig:
        extra = {"percentile": self.percentile} if self.act_algo == "percentile" else {}
        activation = OBSERVERS[self.act_algo].with_args(
            dtype=_DTYPES[self.act_dtype],
            qscheme=per_tensor_symmetric if self.act_sym else per_tensor_affine,
            reduce_range=self.reduce_range,
            **extra,
        )
        return QConfig(activation, _weight(self.w_sym, self.w_granularity, self.w_algo))


class DynamicQuantConfig(QuantConfig):
    """int8 weights; activations are quantized when the model runs, so no data is needed.

    Args:
        w_dtype: ``"int8"``, or ``"fp32"`` to leave modules float.
        w_sym, w_granularity, w_algo: as :class:`StaticQuantConfig`.
        act_dtype: ``"uint8"``; ``"fp32"`` goes with ``w_dtype="fp32"``.
        act_sym: False; the kernels use the whole interval of the values.
        act_granularity: ``"per_token"``: a scale for each row of the input, so that rows do not
            disturb each other; ``"per_tensor"``, which is Neural Compressor's default. Recurrent
            layers and convolutions have scales of their own, see their docstrings.
        act_algo: ``"minmax"``; there is no time for others when the model runs.
        reduce_range: 7 bits for activations.

    Raises, source: as :class:`StaticQuantConfig`; Neural Compressor's ``DynamicQuantConfig``.
    """

    _CHOICES: ClassVar[dict[str, tuple[Any, ...]]] = {
        **StaticQuantConfig._CHOICES,
        "act_dtype": ("uint8", _FLOAT),
        "act_sym": (False,),
        "act_granularity": ("per_token", "per_tensor"),
        "act_algo": ("minmax",),
    }

    def __init__(
        self,
        w_dtype: str | list[str] = "int8",
        w_sym: bool | list[bool] = True,
        w_granularity: str | list[str] = "per_channel",
        w_algo: str | list[str] = "minmax",
        act_dtype: str | list[str] = "uint8",
        act_sym: bool | list[bool] = False,
        act_granularity: str | list[str] = "per_token",
        act_algo: str | list[str] = "minmax",
        *,
        reduce_range: bool | list[bool] = False,
        **unknown: Any,
    ) -> None:
        settings = {k: v for k, v in locals().items() if k not in ("self", "unknown", "__class__")}
        super().__init__(settings, tuple(unknown))

    w_dtype: Any
    w_sym: Any
    w_granularity: Any
    w_algo: Any
    act_dtype: Any
    act_sym: Any
    act_granularity: Any
    act_algo: Any
    reduce_range: Any

    def _observers(self) -> QConfig:
        activation = PlaceholderObserver.with_args(
            dtype=quint8,
            quant_min=0,
            quant_max=255,
            is_dynamic=True,
            per_tensor=self.act_granularity == "per_tensor",
            reduce_range=self.reduce_range,
        )
        return QConfig(activation, _weight(self.w_sym, self.w_granularity, self.w_algo))


def _weight(symmetric: bool, granularity: str, algorithm: str) -> Any:
    """The constructor of a weight's observer."""
    if granularity == "per_channel":
        qscheme = per_channel_symmetric if symmetric else per_channel_affine
        return PerChannelMinMaxObserver.with_args(dtype=qint8, qscheme=qscheme)
    qscheme = per_tensor_symmetric if symmetric else per_tensor_affine
    return OBSERVERS[algorithm].with_args(dtype=qint8, qscheme=qscheme)
