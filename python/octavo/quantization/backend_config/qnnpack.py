"""What torch's qnnpack engine quantizes, under the path that torch has it at."""

from octavo.quantization.backend_config._backends import get_qnnpack_backend_config

__all__ = ["get_qnnpack_backend_config"]
