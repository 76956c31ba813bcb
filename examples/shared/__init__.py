"""What the examples share: arguments, times taken in turn, and results as tables and JSON.

Nothing here is about quantization; that is in the examples themselves.
"""

from shared.arguments import parser, prepare
from shared.results import Results, Workload, file_bytes
from shared.timing import milliseconds

__all__ = ["Results", "Workload", "file_bytes", "milliseconds", "parser", "prepare"]
