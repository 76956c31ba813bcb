"""``calibration``: what observers cost."""

from __future__ import annotations

import argparse

from octavo.bench.cases import CalibrationCase, Case
from octavo.bench.commands.base import Suite, Tell

_Work = tuple[str, tuple[int, ...], int]  # observer, shape of a batch, batches
_EXTREMES = ("MinMaxObserver", "MovingAverageMinMaxObserver")
_CHANNEL_EXTREMES = ("PerChannelMinMaxObserver", "MovingAveragePerChannelMinMaxObserver")
_WORK: list[_Work] = [
    *((name, (8, 128), 32) for name in _EXTREMES),
    *((name, (8, 64, 56, 56), 8) for name in _EXTREMES),
    *((name, (64, 16), 32) for name in _CHANNEL_EXTREMES),
    *((name, (256, 64, 3, 3), 8) for name in _CHANNEL_EXTREMES),
    ("HistogramObserver", (8, 128), 32),
    ("HistogramObserver", (128, 768), 32),
    ("HistogramObserver", (8, 64, 56, 56), 8),
]
_QUICK: list[_Work] = [
    *((name, (3, 40), 2) for name in (*_EXTREMES, *_CHANNEL_EXTREMES)),
    ("HistogramObserver", (9, 40), 2),
]


class Calibration(Suite):
    name = "calibration"
    help = "observers: all batches, then scale and zero point"
    order = 6
    in_report = True

    def cases(self, options: argparse.Namespace, tell: Tell) -> list[Case]:
        return [
            CalibrationCase(
                command=self.name,
                name=f"{observer}, {batches} x {'x'.join(str(size) for size in shape)}",
                threads=options.threads,
                observer=observer,
                shape=shape,
                batches=batches,
            )
            for observer, shape, batches in (_QUICK if options.quick else _WORK)
        ]


COMMAND = Calibration()
