"""Parts of ``static_unet.py`` that are not about quantization: images, training and the picture."""
