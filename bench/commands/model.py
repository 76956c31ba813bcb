"""``model``: whole networks."""

from __future__ import annotations

import argparse

from octavo.bench.cases import Case, ModelCase
from octavo.bench.commands.base import Suite, Tell
from octavo.bench.models import MODELS, SMALL


class Model(Suite):
    name = "model"
    help = f"whole networks: {', '.join(MODELS)}"
    order = 6
    in_report = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--model",
            action="append",
            choices=tuple(MODELS),
            metavar="NAME",
            help=f"one of {', '.join(MODELS)}; may repeat (default: all)",
        )
        super().add_arguments(parser)

    def cases(self, options: argparse.Namespace, tell: Tell) -> list[Case]:
        names = getattr(options, "model", None) or list(MODELS)
        tell("model: random weights; torch's engines run it quantized in FX graph mode")
        if "bert_base" in names:
            tell("model: bert_base: with Octavo, a layer's GELU is part of the Linear before it")
        if "bert_static" in names:
            tell(
                "model: bert_static: Octavo's column is its export flow, the network has no stubs; "
                "openvino and ort run the file that ONNX Runtime's tools make"
            )
        return [_case(options, name) for name in names]


def _case(options: argparse.Namespace, name: str) -> ModelCase:
    size = MODELS[name].size
    if options.quick and MODELS[name].small == "images":
        size = 32
    elif options.quick:  # large whatever the number of tokens
        name = MODELS[name].small
        size = SMALL[name].size
    return ModelCase(
        command=Model.name,
        name=f"{name} {size}",
        threads=options.threads,
        model=name,
        batch=1,
        size=size,
    )


COMMAND = Model()
