"""What ``dynamic_transformer.py`` needs besides quantization: texts, models and scores."""
