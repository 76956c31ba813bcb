"""The fastest model that still holds an accuracy: int8 where it does no harm.

result = octavo.autotune(model, StaticQuantConfig(act_algo=["minmax", "kl"]), accuracy,
                         max_drop=0.01, max_trials=20, calibration_data=loader)
print(result.trials)
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from octavo.quantization.fold import copy_model
from octavo.quantization.tables import Table, Tabular, number
from octavo.workflow.calibrate import KEPT, Batch, CalibrationData
from octavo.workflow.config import DynamicQuantConfig, QuantConfig, StaticQuantConfig
from octavo.workflow.one_call import QuantizeResult, check_model, quantize
from octavo.workflow.rank import own_sqnr
from octavo.workflow.report import WorkflowReport

__all__ = ["AutotuneResult", "Trial", "Trials", "autotune"]

Configs = QuantConfig | Sequence[QuantConfig]


@dataclass(frozen=True)
class Trial:
    """One quantized model.

    Attributes:
        config: what it was quantized with.
        reverted: the layers left float because they lose most.
        score: what ``eval_fn`` gave; None where the model could not be quantized.
        drop: the float model's score less this one, or that as a part of the float model's.
        sqnr: of its outputs on the calibration data; None without.
        seconds: for quantizing and evaluating it.
        holds: whether the drop is small enough.
        error: why it could not be quantized, or "".
    """

    config: str
    reverted: tuple[str, ...]
    score: float | None
    drop: float | None
    sqnr: float | None
    seconds: float
    holds: bool
    error: str = ""


class Trials(Tabular, list[Trial]):
    """The trials in their order; ``print`` shows a table, ``rich.print`` one of rich's.

    Attributes:
        baseline: the float model's score.
        max_drop: the goal.
    """

    baseline: float = math.nan
    max_drop: float = math.nan

    def _table(self) -> Table:
        rows = [
            (
                str(index),
                trial.config,
                ", ".join(trial.reverted),
                number(trial.score, ".5g"),
                number(trial.drop, ".5g"),
                number(trial.sqnr, ".1f"),
                number(trial.seconds, ".1f"),
                "holds" if trial.holds else trial.error.partition("\n")[0] or "drops too much",
            )
            for index, trial in enumerate(self, 1)
        ]
        headers = ("trial", "config", "left float", "score", "drop", "SQNR, dB", "s", "goal")
        footer = [f"float model: {self.baseline:.5g}; at most {self.max_drop:g} may be lost"]
        table = Table(headers, rows, frozenset((0, 3, 4, 5, 6)), footer)
        return table.without_empty_columns() if rows else table


@dataclass
class AutotuneResult:
    """``model, report = result``.

    Attributes:
        model: the best int8 model: the first that holds the goal, or else the one with the best
            score.
        report: its modules, as of :func:`octavo.quantize`.
        config: what it was quantized with, with the local rules that were found.
        trials: what was tried.
        score, baseline: of the model, and of the float model.
        holds: whether the goal was reached.
    """

    model: nn.Module
    report: WorkflowReport
    config: QuantConfig
    trials: Trials
    score: float
    baseline: float
    holds: bool

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.report))


def autotune(
    model: nn.Module,
    configs: Configs | None,
    eval_fn: Callable[[nn.Module], float],
    max_drop: float = 0.01,
    max_trials: int = 20,
    *,
    calibration_data: Iterable[Any] | None = None,
    transform_fn: Callable[[Any], Any] | None = None,
    relative: bool = False,
    max_seconds: float | None = None,
    capture: str | None = None,
    max_batches: int | None = None,
    verbose: bool | None = None,
) -> AutotuneResult:
    """Finds an int8 model that is as good as the float one, but for a given drop.

    First every config is tried, until one holds the goal. If none does, the layers of the best one
    are ranked by how much each loses by itself (SQNR on the first batch), and the worst are left
    float, one more in each trial, until the goal holds. Where there are more layers than trials
    left, the numbers of layers grow faster.

    Args:
        model: a float model on the CPU; it is not changed.
        configs: one, or several in the order in which to try them; lists in a config stand for all
            their values. Default: static with ``act_algo`` "kl", "minmax", "percentile" and "mse".
        eval_fn: gives the score of a model in eval mode, without gradients; higher is better.
        max_drop: how much of the score may be lost.
        max_trials: how many models are quantized and evaluated at most.
        calibration_data, transform_fn, capture, max_batches: as :func:`octavo.quantize`; static
            configs and the ranking need data.
        relative: ``max_drop`` is a part of the float model's score.
        max_seconds: no trial is begun after that time.
        verbose: show the table of trials while it grows; default: where standard output is a
            terminal.

    Returns:
        An :class:`AutotuneResult`; ``model, report = autotune(...)``.

    Raises:
        TypeError, ValueError: wrong arguments; a score that is no finite number for the float
            model.
        RuntimeError: no config quantizes the model, with the reasons.

    Warns where the goal was not reached. Source: Neural Compressor's ``autotune``, which tries
    configs; NNCF's ``quantize_with_accuracy_control``, which reverts layers.
    """
    check_model(model, "autotune")
    candidates = _candidates(configs)
    _check_numbers(max_drop, max_trials, max_seconds)
    if calibration_data is not None and iter(calibration_data) is calibration_data:
        kept = KEPT if max_batches is None else max_batches
        calibration_data = list(itertools.islice(calibration_data, kept))
    plain = copy_model(model).eval()
    search = _Search(plain, eval_fn, max_drop, relative, max_trials, max_seconds)
    search.arguments = {
        "calibration_data": calibration_data,
        "transform_fn": transform_fn,
        "max_batches": max_batches,
    }
    search.capture = capture
    for config in candidates:  # wrong rules are told before anything is computed
        config.resolve(plain)
    with _shown(search, verbose):
        _run(search, candidates, _first_batch(plain, search.arguments))
    return search.result()


def _first_batch(model: nn.Module, arguments: dict[str, Any]) -> Batch | None:
    data = arguments["calibration_data"]
    if data is None:
        return None
    return CalibrationData(data, model, arguments["transform_fn"]).first


def _run(search: _Search, candidates: list[QuantConfig], example: Batch | None) -> None:
    for config in candidates:
        if search.over() or search.attempt(config, ()):
            return
    if search.best is None or example is None:
        return
    best, start = search.best
    ranked = _ranked(best, search.model, example)
    for count in _counts(len(ranked), search.left):
        if search.over():
            return
        worst = tuple(ranked[:count])
        config = copy.copy(start)
        config.local = list(start.local)
        if search.attempt(config.set_local(worst, None), worst, start):
            return


def _counts(layers: int, trials: int) -> list[int]:
    """How many layers to leave float in each trial: one more each time, or growing by a factor
    where the trials do not suffice; never all of them.
    """
    most = layers - 1
    if most <= trials:
        return list(range(1, most + 1))
    return sorted({round(most ** (step / trials)) for step in range(1, trials + 1)})


def _ranked(result: QuantizeResult, model: nn.Module, example: Batch) -> list[str]:
    """The int8 layers of the user's model, those that lose most first."""
    losses = own_sqnr(result.reference, result.model, example)
    names = {name for name, _ in model.named_modules()}
    by_path: dict[str, float] = {}
    for name, loss in losses.items():
        path = result.paths.get(name, name)
        if path in names and path is not None and not math.isinf(loss):
            by_path[path] = min(loss, by_path.get(path, math.inf))
    return sorted(by_path, key=lambda path: (not math.isnan(by_path[path]), by_path[path]))


def _candidates(configs: Configs | None) -> list[QuantConfig]:
    if configs is None:
        configs = StaticQuantConfig(act_algo=["kl", "minmax", "percentile", "mse"])
    several = [configs] if isinstance(configs, QuantConfig) else list(configs)
    for config in several:
        if not isinstance(config, (StaticQuantConfig, DynamicQuantConfig)):
            raise TypeError(
                "autotune: configs must be a StaticQuantConfig, a DynamicQuantConfig or a list of "
                f"these, got {type(config).__name__}"
            )
    if not several:
        raise ValueError("autotune: configs is an empty list; leave it None for the default ones")
    return [made for config in several for made in config.expanded()]


def _check_numbers(max_drop: Any, max_trials: Any, max_seconds: Any) -> None:
    if not isinstance(max_drop, (int, float)) or not max_drop >= 0:
        raise ValueError(
            f"autotune: max_drop must be a number that is not negative, got {max_drop!r}"
        )
    if not isinstance(max_trials, int) or max_trials < 1:
        raise ValueError(f"autotune: max_trials must be a positive integer, got {max_trials!r}")
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"autotune: max_seconds must be positive or None, got {max_seconds!r}")


class _Search:
    """The trials so far, and the best of them."""

    def __init__(
        self,
        model: nn.Module,
        eval_fn: Callable[[nn.Module], float],
        max_drop: float,
        relative: bool,
        max_trials: int,
        max_seconds: float | None,
    ) -> None:
        self.model, self.eval_fn, self.relative = model, eval_fn, relative
        self.max_trials, self.started = max_trials, time.monotonic()
        self.deadline = math.inf if max_seconds is None else self.started + max_seconds
        self.arguments: dict[str, Any] = {}
        self.capture: str | None = None
        self.best: tuple[QuantizeResult, QuantConfig] | None = None
        self.score = -math.inf
        self.holds = False
        self.config: QuantConfig | None = None
        self.show: Callable[[Trials], None] = lambda trials: None
        self.trials = Trials()
        self.trials.baseline, self.trials.max_drop = self._score(model), max_drop

    def _score(self, model: nn.Module) -> float:
        with torch.no_grad():
            score = self.eval_fn(model)
        try:
            value = float(score)
        except (TypeError, ValueError):
            raise TypeError(f"autotune: eval_fn must return a number, got {score!r}") from None
        if model is self.model and not math.isfinite(value):
            raise ValueError(f"autotune: eval_fn gives {value} for the float model")
        return value

    @property
    def left(self) -> int:
        """How many trials are left."""
        return self.max_trials - len(self.trials)

    def over(self) -> bool:
        """Whether no trial may be begun any more."""
        return self.left < 1 or time.monotonic() >= self.deadline

    def attempt(
        self, config: QuantConfig, reverted: tuple[str, ...], shown: QuantConfig | None = None
    ) -> bool:
        """Quantizes and evaluates; returns whether the goal holds."""
        began = time.monotonic()
        text = (shown or config).changes()
        static = isinstance(config, StaticQuantConfig)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="quantize: the int8 model's outputs")
                result = quantize(
                    self.model,
                    config=config,
                    capture=self.capture if static else None,
                    progress=False,
                    **self.arguments,
                )
        except RuntimeError as error:
            seconds = time.monotonic() - began
            self._add(Trial(text, reverted, None, None, None, seconds, False, str(error)))
            return False
        score = self._score(result.model)
        drop = self.trials.baseline - score
        if self.relative:
            drop /= abs(self.trials.baseline) or math.inf
        holds = drop <= self.trials.max_drop
        seconds = time.monotonic() - began
        self._add(Trial(text, reverted, score, drop, result.report.sqnr, seconds, holds))
        if holds or score > self.score:
            self.best, self.score, self.config = (result, shown or config), score, config
            self.holds = holds
        return holds

    def _add(self, trial: Trial) -> None:
        self.trials.append(trial)
        self.show(self.trials)

    def result(self) -> AutotuneResult:
        """The best model.

        Raises:
            RuntimeError: there is none.
        """
        if self.best is None or self.config is None:
            reasons = "\n".join(f"  {trial.config}: {trial.error}" for trial in self.trials)
            raise RuntimeError(f"autotune: no config quantizes the model:\n{reasons}")
        if not self.holds:
            warnings.warn(
                f"autotune: none of {len(self.trials)} trials loses at most "
                f"{self.trials.max_drop:g}; the best scores {self.score:.5g}, the float model "
                f"{self.trials.baseline:.5g}. It is returned; print the result's trials, and give "
                "more of them or other configs",
                stacklevel=3,
            )
        found, _ = self.best
        return AutotuneResult(
            found.model,
            found.report,
            self.config,
            self.trials,
            self.score,
            self.trials.baseline,
            self.holds,
        )


def _shown(search: _Search, verbose: bool | None) -> Any:
    """A context in which the trials are on the screen, if they are to be."""
    if not (sys.stdout.isatty() if verbose is None else verbose):
        return nullcontext()
    if importlib.util.find_spec("rich") is None:
        search.show = lambda trials: print(trials)
        return nullcontext()
    from rich.live import Live

    live = Live(search.trials._table().rich(), auto_refresh=False)
    search.show = lambda trials: live.update(trials._table().rich(), refresh=True)
    return live
