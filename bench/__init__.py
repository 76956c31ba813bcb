"""The benchmark runner: ``octavo bench``, or ``python -m octavo.bench``.

It measures the machine's own limits first, checks every result against a reference before timing
it, and times Octavo and its peers in turn. How it is used: ``bench/README.md``. How it is built:

``commands``  one file for each subcommand: which cases it measures
``cases``     what is computed: sizes, data, reference results, shape files
``peers``     one file for each library: how it computes a case; ``ours`` is Octavo itself
``measure``, ``timing``, ``roofs``, ``noise``   one case, one measurement, limits, disturbances
``worker``, ``process``, ``runner``   one process for each level, as peers read caps on loading
``document``, ``report``   results as JSON (``schema.json``), tables, CSV, Markdown and plots
``throughput``  inner loops by instruction counts and LLVM's models, for CPUs that are not at hand
"""
