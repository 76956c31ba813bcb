"""Data, network and training loop of ``qat_mobilenet.py``; nothing here is about quantization."""
