"""Q/DQ graphs, as PT2E quantization makes them, onto int8 kernels.

    converted = convert_pt2e(prepared)      # Octavo's or torchao's
    int8 = octavo.lower(converted)
    print(lowering_report(int8))

How it is done:

- A value of the graph is *exact* where it is dequantized 8-bit integers, bit for bit: behind a
  ``dequantize``, and behind what commutes with it, such as views, max pooling and ReLU
  (:mod:`~octavo.lowering.commuting`). :mod:`~octavo.lowering.graph_view` finds these, and what is
  written in place, which stays as it is.
- For each ``quantize`` the operators before it are matched with a kernel that takes exact inputs:
  :mod:`~octavo.lowering.weighted` (linear layers, convolutions, residual sums),
  :mod:`~octavo.lowering.elementwise`, :mod:`~octavo.lowering.functions` (tables of 256 results for
  any function of one tensor), :mod:`~octavo.lowering.pooling`,
  :mod:`~octavo.lowering.normalization`, :mod:`~octavo.lowering.attention`. Layers whose output
  nothing quantizes give float32 from their integer sums; layers whose inputs are quantized when
  they run are :mod:`~octavo.lowering.dynamic`.
- :mod:`~octavo.lowering.build` writes the new graph. A value that is read both ways has two forms,
  each made once.

What differs from the graph, besides float32 sums that it rounds and integer sums do not: averages
and functions with an output scale of their own are rounded to it once, as the graph does;
attention computes with exact sums and weights of 16 bits (:func:`octavo.ops.attention`), one step
beside the graph's at most; and dynamic layers find their scale as
:class:`octavo.nn.quantized.dynamic.Linear` does.

Operators are told by their names, those of ``quantized_decomposed`` (torch's and torchao's) and of
``octavo`` alike; neither has to be registered, and torchao is not imported.
"""

from octavo.lowering.lower import lower
from octavo.lowering.report import LoweringReport, NodeReport, lowering_report

__all__ = ["LoweringReport", "NodeReport", "lower", "lowering_report"]
