"""What :mod:`octavo.quantization.quantize_pt2e` is made of, and the modes of exported graphs."""

from octavo.quantization.pt2e.export_utils import (
    allow_exported_model_train_eval,
    model_is_exported,
    move_exported_model_to_eval,
    move_exported_model_to_train,
)

__all__ = [
    "allow_exported_model_train_eval",
    "model_is_exported",
    "move_exported_model_to_eval",
    "move_exported_model_to_train",
]
