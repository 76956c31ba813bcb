"""What torch's onednn engine quantizes, under the path that torch has it at."""

from octavo.quantization.backend_config._backends import get_onednn_backend_config

__all__ = ["get_onednn_backend_config"]
