"""What torch's native engines quantize, under the path that torch has it at."""

from octavo.quantization.backend_config._backends import (
    get_native_backend_config,
    get_native_backend_config_dict,
)

__all__ = ["get_native_backend_config", "get_native_backend_config_dict"]
