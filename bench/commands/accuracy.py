"""``accuracy``: trained models on real data, after quantization."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from octavo.bench.accuracy.settings import DEFAULTS, DYNAMIC, STATIC
from octavo.bench.cases import AccuracyCase, Case
from octavo.bench.cases.accuracy import missing_packages
from octavo.bench.commands.base import Suite, Tell

# Where LayerNorms are in int8, nothing useful is left with 7 bits, whoever computes it; everything
# in int8 is for Octavo alone.
_STATIC_SETTINGS: dict[str, Sequence[str]] = {
    "Linear": tuple(STATIC),
    "Linear, LayerNorm and sums": (DEFAULTS, "8 bits"),
    "everything": (DEFAULTS,),
}
_QUICK_EPOCHS, _QUICK_INPUTS = 1, {"digits": 128, "sentences": 8}
_NOTES = {
    "digits": "accuracy: digits: a network with convolutions, trained for this on scikit-learn's "
    "1197 images, tested on 600 others",
    "sentences": "accuracy: sentences: all-MiniLM-L6-v2 embeds 100 sentences, one at a time; 33 "
    "others calibrate static quantization",
}


class Accuracy(Suite):
    name = "accuracy"
    help = "trained models on real data: how much of their accuracy quantization leaves"
    order = 6
    in_report = True

    def cases(self, options: argparse.Namespace, tell: Tell) -> list[Case]:
        cases: list[Case] = []
        for model, note in _NOTES.items():
            absent = missing_packages(model)
            if absent:
                tell(
                    f"accuracy: {model} not measured; not installed: {', '.join(absent)} "
                    '(pip install "octavo[accuracy]")'
                )
                continue
            tell(note)
            cases += _digits(options) if model == "digits" else _sentences(options)
        return cases


def _case(options: argparse.Namespace, name: str, **parameters: Any) -> AccuracyCase:
    model = parameters["model"]
    if options.quick:
        parameters.update(epochs=_QUICK_EPOCHS, limit=_QUICK_INPUTS[model])
    return AccuracyCase(
        command=Accuracy.name,
        name=f"{model}, {name}",
        threads=options.threads,
        **parameters,
    )


def _digits(options: argparse.Namespace) -> list[Case]:
    return [
        _case(options, f"static, {settings}", model="digits", mode="static", settings=settings)
        for settings in STATIC
    ]


def _sentences(options: argparse.Namespace) -> list[Case]:
    dynamic: list[Case] = [
        _case(options, f"dynamic, {settings}", model="sentences", mode="dynamic", settings=settings)
        for settings in DYNAMIC
    ]
    static = [
        _case(
            options,
            f"static, {part} in int8, {settings}",
            model="sentences",
            mode="static",
            settings=settings,
            part=part,
        )
        for part in _STATIC_SETTINGS
        for settings in _STATIC_SETTINGS[part]
    ]
    return [*dynamic, *static]


COMMAND = Accuracy()
