"""Calibration data: whatever users have, as calls of a model; and showing it to observers."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from octavo.quantization.dataflow import tensors_in

__all__ = ["Batch", "CalibrationData", "calibrate", "keyword_call"]

KEPT = 128
"""How many batches are kept of data that can be iterated only once."""

CHECKED = 8
"""How many batches the int8 model is compared with the float one on."""

_FORMS = (
    "a tensor, a tuple or list of the arguments of one call, a dict of keyword arguments, or what "
    "transform_fn makes one of"
)


class CaptureError(RuntimeError):
    """A way of capturing does not do for a model; its message is the reason."""


@dataclass(frozen=True)
class Batch:
    """The arguments of one call of a model."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def run(self, model: Callable[..., Any]) -> Any:
        """Calls a model, without gradients."""
        with torch.no_grad():
            return model(*self.args, **self.kwargs)


class CalibrationData:
    """Batches of calibration data, to be iterated as often as it takes.

    Args:
        data: an iterable of batches, such as a list or a DataLoader. Batches are tensors, tuples or
            lists of arguments, or dicts of keyword arguments. Where the model takes one argument
            and batches are pairs, these are (input, label), and the input counts.
        model: what they are for.
        transform_fn: makes the argument(s) of one call from an element of ``data``.
        max_batches: how many to use; default: all, and of an iterator the first 128.

    Attributes:
        notes: what users should know of how the data was read.

    Raises:
        TypeError: ``data`` is no iterable of batches.
        ValueError: it is empty.
    """

    def __init__(
        self,
        data: Iterable[Any],
        model: nn.Module,
        transform_fn: Callable[[Any], Any] | None = None,
        max_batches: int | None = None,
    ) -> None:
        _check_data(data, transform_fn, max_batches)
        self.notes: list[str] = []
        self._transform, self._limit = transform_fn, max_batches
        self._signature = inspect.signature(model.forward)
        self._data: Iterable[Any] = data
        if iter(data) is data:
            self._data = self._kept(data, KEPT if max_batches is None else max_batches)
        self.first = next(iter(self), None)
        if self.first is None:
            raise ValueError(
                "calibration_data is empty; give at least one batch, typically some hundred samples"
            )

    def _kept(self, data: Iterator[Any], limit: int) -> list[Any]:
        kept = []
        for item in data:
            kept.append(item)
            if len(kept) == limit:
                break
        self.notes.append(
            f"calibration_data can be iterated only once; its first {len(kept)} batches were kept "
            "in memory and used"
        )
        return kept

    def __len__(self) -> int:
        """The number of batches.

        Raises:
            TypeError: the data does not say it.
        """
        count = len(self._data)  # type: ignore[arg-type]
        return count if self._limit is None else min(count, self._limit)

    def __iter__(self) -> Iterator[Batch]:
        for index, item in enumerate(self._data):
            if self._limit is not None and index >= self._limit:
                return
            yield self._batch(item, index)

    def head(self) -> list[Batch]:
        """The first batches, which results are checked on."""
        result = []
        for batch in self:
            result.append(batch)
            if len(result) == CHECKED:
                break
        return result

    def _batch(self, item: Any, index: int) -> Batch:
        if self._transform is not None:
            item = self._transform(item)
        if isinstance(item, Tensor):
            return Batch((item,), {})
        if isinstance(item, Mapping):
            return self._of_keywords(item)
        if not isinstance(item, (tuple, list)):
            source = "transform_fn returned" if self._transform else "calibration_data holds"
            raise TypeError(
                f"{source} {type(item).__name__} for batch {index}; a batch must be {_FORMS}"
            )
        args = tuple(item)
        if self._transform is None and len(args) == 2 and self._takes_one():
            note = "batches are pairs and the model takes one argument: the first one was used"
            if note not in self.notes:
                self.notes.append(note)
            args = args[:1]
        return Batch(args, {})

    def _takes_one(self) -> bool:
        kinds = [parameter.kind for parameter in self._signature.parameters.values()]
        return len(kinds) == 1 and kinds[0] in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        )

    def _of_keywords(self, item: Mapping[str, Any]) -> Batch:
        """Keyword arguments as positional ones where they can be; comparing layers wants these."""
        try:
            return keyword_call(self._signature, item)
        except TypeError as error:
            raise TypeError(
                f"calibration_data has the keyword arguments {sorted(item)}, which the model's "
                f"forward{self._signature} does not take: {error}; select them with transform_fn"
            ) from None


def keyword_call(signature: inspect.Signature, arguments: Mapping[str, Any]) -> Batch:
    """A call with keyword arguments as one with positional ones, where these can be.

    Defaults are filled in up to the last argument that is given: wrapped models take some of the
    others by keyword only.

    Raises:
        TypeError: arguments that the function does not take.
    """
    bound = signature.bind(**arguments)
    given = set(bound.arguments)
    bound.apply_defaults()
    names = list(bound.arguments)
    last = max((i for i, name in enumerate(names) if name in given), default=-1)
    for name in names[last + 1 :]:
        del bound.arguments[name]
    return Batch(bound.args, bound.kwargs)


def _check_data(data: Any, transform_fn: Any, max_batches: Any) -> None:
    if data is None:
        raise ValueError(
            "static quantization needs calibration_data: an iterable of batches, such as a "
            "DataLoader; without data use mode='dynamic'"
        )
    single = isinstance(data, (Tensor, Mapping, str, bytes))
    if single or not isinstance(data, Iterable):
        hint = "; for a single batch give a list of it" if single else ""
        raise TypeError(
            f"calibration_data must be an iterable of batches, got {type(data).__name__}{hint}"
        )
    if transform_fn is not None and not callable(transform_fn):
        raise TypeError(f"transform_fn must be callable, got {type(transform_fn).__name__}")
    if max_batches is not None and (not isinstance(max_batches, int) or max_batches < 1):
        raise ValueError(f"max_batches must be a positive integer or None, got {max_batches!r}")


def calibrate(model: nn.Module, data: CalibrationData, progress: bool | None = None) -> int:
    """Runs a prepared model on all batches; returns how many.

    Args:
        progress: show a progress bar; default: if standard error is a terminal and rich is
            installed.

    Raises:
        CaptureError: the model fails on a batch.
        ValueError: an output holds NaN, which the float model would return too.
        ImportError: ``progress=True`` without rich.
    """
    count = 0
    for batch in _tracked(data, progress):
        try:
            output = batch.run(model)
        except Exception as error:
            raise CaptureError(
                f"fails on batch {count}: {type(error).__name__}: {error}"
            ) from error
        if has_nan(output):
            inside = has_nan((batch.args, dict(batch.kwargs)))
            cause = "the batch itself holds NaN" if inside else "the batch itself holds none"
            raise ValueError(
                f"calibration: the float model returns NaN for batch {count} ({cause}); look for "
                "it before quantizing"
            )
        count += 1
    return count


def has_nan(value: Any) -> bool:
    """Whether a float tensor somewhere in nested values holds NaN."""
    return any(
        bool(torch.isnan(tensor).any())
        for tensor in tensors_in(value)
        if tensor.is_floating_point()
    )


def _tracked(data: CalibrationData, progress: bool | None) -> Iterable[Batch]:
    if progress is None:
        progress = sys.stderr.isatty() and importlib.util.find_spec("rich") is not None
    if not progress:
        return data
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError as error:
        raise ImportError("progress=True takes the rich package: pip install rich") from error
    try:
        total: int | None = len(data)
    except TypeError:
        total = None
    return track(data, "calibrating", total=total, console=Console(stderr=True), transient=True)
