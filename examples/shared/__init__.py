"""What the examples share: arguments, progress bars, times taken in turn, results as tables and
JSON, and the engine of torch where that is compared with.

How to quantize is not here; that is in the examples themselves.
"""

from shared.arguments import parser, prepare
from shared.engine import best_engine, torch_engine
from shared.progress import bars, progress
from shared.results import Results, Workload, file_bytes
from shared.timing import float_calls, milliseconds, with_faster_float

__all__ = [
    "Results",
    "Workload",
    "bars",
    "best_engine",
    "file_bytes",
    "float_calls",
    "milliseconds",
    "parser",
    "prepare",
    "progress",
    "torch_engine",
    "with_faster_float",
]
