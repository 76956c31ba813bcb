"""Microbenchmarks of Octavo's kernels beside their peers; run it as ``python -m octavo.bench``."""
