"""Comparing float and int8 models, under the names of ``torch.ao.ns``."""
