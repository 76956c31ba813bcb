"""What :mod:`octavo.quantization.quantize_pt2e` is made of."""
