"""The process that measures one level: a request on stdin, one JSON event a line on stdout.

The caps of the level are in its environment, set before any peer loads. What libraries print goes
to stderr.

Events: ``ready`` (what runs here), ``running`` (case and contender about to run), ``case`` (one
result), ``done`` (roofs, measured before and after the cases), ``failed`` (a message for people).
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from octavo import backend
from octavo.bench import apart, levels, peers, roofs, timing
from octavo.bench.cases import AccuracyCase, Case, ModelCase
from octavo.bench.channel import Emit, private_stdout
from octavo.bench.measure import SUBJECT, Plan, measure, score
from octavo.bench.peers.base import Peer
from octavo.bench.peers.ours import OCTAVO


@dataclass(frozen=True)
class Request:
    """What to measure on one level.

    Attributes:
        roof_seconds: for each roof.
        cases: (index, encoded case); indices come back in the events.
        excluded: index of a case -> contender -> why it must not run again.
        apart: whether contenders of networks run in processes of their own.
    """

    isa: str
    threads: int
    effort: timing.Effort
    roof_seconds: float
    cold: bool = False
    kernel: str | None = None
    peers: list[str] = field(default_factory=list)
    cases: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    excluded: dict[str, dict[str, str]] = field(default_factory=dict)
    apart: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Request:
        fields = json.loads(text)
        return Request(**{**fields, "effort": timing.Effort(**fields["effort"])})


def serve(request: Request, emit: Emit) -> None:
    """Measures everything that is asked for.

    Raises:
        ValueError, RuntimeError: a level or kernel that cannot run here.
        AssertionError: a wrong result of Octavo.
    """
    backend.force(request.isa)
    backend.force_gemm_kernel(request.kernel)
    torch.set_num_threads(request.threads)
    known = peers.all_peers()
    asked = {name: known[name] for name in request.peers}
    emit({"event": "ready", **_facts(request.isa, asked)})
    before = roofs.measure(request.threads, request.roof_seconds)
    plan = Plan(request.effort, request.cold)
    for index, encoded in request.cases:
        _measure_case(index, Case.decode(encoded), asked, request, plan, emit)
    after = roofs.compute_peak(request.threads, request.roof_seconds)
    emit({"event": "done", "roofs": {**before, "compute_after": after}})


def _facts(isa: str, asked: dict[str, Peer]) -> dict[str, Any]:
    return {
        "isa": isa,
        "kernels": backend.kernels(isa),
        "environment": {
            name: os.environ[name] for name in levels.CAP_VARIABLES if name in os.environ
        },
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "peers": {
            name: {
                "unavailable": peer.missing(),
                "keeps_to_level": peer.keeps_to(isa),
                "note": peer.cap_note(isa),
            }
            for name, peer in asked.items()
        },
    }


def _measure_case(
    index: int, case: Case, asked: dict[str, Peer], request: Request, plan: Plan, emit: Emit
) -> None:
    def tell(contender: str) -> None:
        emit({"event": "running", "index": index, "contender": contender})

    apply = {name: peer for name, peer in asked.items() if peer.applies_to(case.kind)}
    contenders = {SUBJECT: OCTAVO, **apply}
    excluded = request.excluded.get(str(index), {})
    if isinstance(case, AccuracyCase):
        result = score(case, contenders, excluded, tell)
    elif isinstance(case, ModelCase) and request.apart:
        names = list(contenders)
        result = apart.measure(case, names, request.isa, plan, request.kernel, excluded, tell)
    else:
        result = measure(case, contenders, plan, excluded, tell)
    emit({"event": "case", "index": index, **result})


def main() -> int:
    emit = private_stdout()
    warnings.simplefilter("ignore")
    try:
        serve(Request.from_json(sys.stdin.read()), emit)
    except (AssertionError, ValueError, RuntimeError) as error:
        emit({"event": "failed", "message": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
