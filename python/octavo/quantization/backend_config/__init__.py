"""What backends support, for :mod:`octavo.quantization.quantize_fx`.

``get_octavo_backend_config`` is the default: what Octavo's kernels run. The others say what torch's
engines quantize, for graphs with the same observers as there; they run on Octavo's kernels too.
"""

from octavo.quantization.backend_config._backends import (
    get_fbgemm_backend_config,
    get_native_backend_config,
    get_native_backend_config_dict,
    get_octavo_backend_config,
    get_onednn_backend_config,
    get_qnnpack_backend_config,
)
from octavo.quantization.backend_config.backend_config import (
    BackendConfig,
    BackendPatternConfig,
    DTypeConfig,
    DTypeWithConstraints,
    ObservationType,
)

__all__ = [
    "BackendConfig",
    "BackendPatternConfig",
    "DTypeConfig",
    "DTypeWithConstraints",
    "ObservationType",
    "get_fbgemm_backend_config",
    "get_native_backend_config",
    "get_native_backend_config_dict",
    "get_octavo_backend_config",
    "get_onednn_backend_config",
    "get_qnnpack_backend_config",
]
