"""Quantizing graphs; users call :mod:`octavo.quantization.quantize_fx`.

In the order in which ``prepare_fx`` uses them: ``tracer`` traces; ``origins`` notes where each node
comes from, and which QConfig applies there; ``inplace`` makes operations return their results;
``functions`` makes functions with parameters modules; ``fuse`` and ``merge`` make sequences one
module; ``values`` finds what flows through the graph; ``kinds``, ``dtypes`` and ``plan`` decide
what runs in int8 and which values share a scale; ``prepare`` puts observers in. ``convert`` makes
the int8 graph, of the modules of ``octavo.nn`` and those in ``operations``.
"""
