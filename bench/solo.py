"""A process that prepares one contender for one network, and runs it when it is told to.

The first line of stdin is a request, each line after it a command; every answer is one line of JSON
on stdout. What libraries print goes to stderr. :mod:`octavo.bench.apart` is the other side.
"""

from __future__ import annotations

import gc
import json
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from octavo import backend
from octavo.bench import breakdown, memory, peers, timing
from octavo.bench.cases import Case, ModelCase
from octavo.bench.cases.model import forget
from octavo.bench.channel import Emit, private_stdout
from octavo.bench.measure import SUBJECT, first_line
from octavo.bench.peers import onnx_models
from octavo.bench.peers.base import Peer, Prepared, Unavailable
from octavo.bench.peers.ours import OCTAVO


@dataclass(frozen=True)
class SoloRequest:
    """Whom to prepare for what.

    Attributes:
        isa, kernel: as in :class:`octavo.bench.worker.Request`.
        contender: a peer's name, or Octavo's.
        case: an encoded :class:`~octavo.bench.cases.ModelCase`.
        folder: keeps files that several contenders need.
    """

    isa: str
    kernel: str | None
    contender: str
    case: dict[str, Any]
    folder: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> SoloRequest:
        return SoloRequest(**json.loads(text))


def serve(request: SoloRequest, commands: Any, emit: Emit) -> None:
    """Prepares, then obeys ``commands``, which are lines of JSON.

    Raises:
        ValueError, RuntimeError: a level or kernel that cannot run here.
    """
    backend.force(request.isa)
    backend.force_gemm_kernel(request.kernel)
    onnx_models.keep_in(Path(request.folder))
    case = Case.decode(request.case)
    assert isinstance(case, ModelCase)
    torch.set_num_threads(case.threads)
    subject = request.contender == SUBJECT
    peer = OCTAVO if subject else peers.all_peers()[request.contender]
    with torch.inference_mode():
        baseline = _baseline(peer, case)
        try:
            prepared = peer.prepare(case)
        except Exception as error:
            if subject:
                raise
            prepared = Unavailable(first_line(error))
        if isinstance(prepared, Unavailable):
            emit({"event": "unavailable", "reason": prepared.reason})
            return
        _answer(prepared, case, baseline, subject, commands, emit)


def _answer(
    prepared: Prepared, case: ModelCase, baseline: int, subject: bool, commands: Any, emit: Emit
) -> None:
    try:
        prepared.select()
        check = case.check(prepared.result(prepared.call()))
    except Exception as error:
        if subject:
            raise
        emit({"event": "unavailable", "reason": first_line(error)})
        return
    kernel, found = prepared.kernel(), _memory(prepared, baseline)
    emit({"event": "prepared", "check": asdict(check), "kernel": kernel, "memory": found})
    contender = timing.Contender("solo", [prepared.call], prepared.select)
    timer = contender.timer(case.threads)
    for line in commands:
        command = json.loads(line)
        if command["do"] == "time":
            (seconds,) = timer.timeit(command["calls"]).raw_times
            emit({"event": "timed", "seconds": seconds})
        elif command["do"] == "layers":
            emit({"event": "layers", "layers": prepared.layers()})
        elif command["do"] == "breakdown":
            emit({"event": "breakdown", "breakdown": breakdown.measure(prepared.call)})


def _baseline(peer: Peer, case: ModelCase) -> int:
    """What the process holds once a small network has come and gone: code written in Python, and
    whatever the library sets up once."""
    small = case.small()
    try:
        prepared = peer.prepare(small)
        if isinstance(prepared, Prepared):
            prepared.select()
            prepared.call()
            del prepared
    except Exception:
        gc.collect()  # what it cannot do with a small network, it may do with the other, or say why
    return _held()


def _held() -> int:
    forget()
    onnx_models.quantized.cache_clear()
    memory.settle()
    return 0 if memory.missing() else memory.resident()


def _memory(prepared: Prepared, baseline: int) -> dict[str, int] | None:
    """Bytes that the network holds between calls, and at most during one."""
    held = max(_held() - baseline, 0)
    if memory.missing():
        return None
    # The system counts pages of each CPU apart and sums them now and then: a small network's peak
    # can read a little lower than what was there before.
    return {"held": held, "peak": max(memory.peak(prepared.call) - baseline, held)}


def main() -> int:
    emit = private_stdout()
    warnings.simplefilter("ignore")
    try:
        serve(SoloRequest.from_json(sys.stdin.readline()), sys.stdin, emit)
    except Exception as error:
        emit({"event": "failed", "message": first_line(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
