"""What torch's fbgemm engine quantizes, under the path that torch has it at."""

from octavo.quantization.backend_config._backends import get_fbgemm_backend_config

__all__ = ["get_fbgemm_backend_config"]
