"""``normalize``: normalizations and softmax."""

from __future__ import annotations

import argparse

from octavo.bench.cases import Case, NormalizeCase
from octavo.bench.commands.base import Suite, Tell

# Operation, shape, channels last, groups: as networks have them, and beyond the caches.
_SHAPES: list[tuple[str, tuple[int, ...], bool, int]] = [
    ("layer_norm", (1, 768), False, 1),
    ("layer_norm", (128, 768), False, 1),
    ("layer_norm", (32768, 768), False, 1),
    ("batch_norm", (1, 64, 56, 56), True, 1),
    ("batch_norm", (1, 64, 56, 56), False, 1),
    ("batch_norm", (32, 256, 56, 56), True, 1),
    ("group_norm", (1, 256, 28, 28), True, 32),
    ("group_norm", (1, 256, 28, 28), False, 32),
    ("group_norm", (32, 256, 56, 56), True, 32),
    ("instance_norm", (1, 64, 112, 112), True, 1),
    ("instance_norm", (1, 64, 112, 112), False, 1),
    ("softmax", (1, 12, 128, 128), False, 1),
    ("softmax", (1, 1000), False, 1),
    ("softmax", (32768, 768), False, 1),
]
_QUICK: list[tuple[str, tuple[int, ...], bool, int]] = [
    ("layer_norm", (3, 70), False, 1),
    ("batch_norm", (1, 5, 4, 6), True, 1),
    ("group_norm", (1, 6, 4, 5), True, 2),
    ("instance_norm", (1, 5, 4, 6), False, 1),
    ("softmax", (3, 70), False, 1),
]


class Normalize(Suite):
    name = "normalize"
    help = "normalizations and softmax, u8 to u8: bytes a second beside a copy"
    order = 4
    in_report = True

    def cases(self, options: argparse.Namespace, tell: Tell) -> list[Case]:
        return [
            NormalizeCase(
                command=self.name,
                name=_name(operation, shape, channels_last, groups),
                threads=options.threads,
                operation=operation,
                shape=shape,
                channels_last=channels_last,
                groups=groups,
            )
            for operation, shape, channels_last, groups in (_QUICK if options.quick else _SHAPES)
        ]


def _name(operation: str, shape: tuple[int, ...], channels_last: bool, groups: int) -> str:
    text = operation + (f"({groups})" if operation == "group_norm" else "")
    text += ", " + "x".join(str(size) for size in shape)
    return text + (", channels last" if channels_last else "")


COMMAND = Normalize()
