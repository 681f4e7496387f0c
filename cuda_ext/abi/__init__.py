"""The C structures of include/abi.h for ctypes, field by field.

Sizes are compared with the library's when it is opened; tests compare names and order with the header.
"""

from __future__ import annotations

import ctypes as c

from cuda_ext.abi import binding, gaussians, grids, meshes, pictures, skin, training, volumes
from cuda_ext.abi.binding import AvBind, AvBindBackward, AvBlend, AvCarry, AvCarryBackward, AvPenalty
from cuda_ext.abi.common import (
    ANTIALIASED,
    DEVICE,
    FOR_GRADIENTS,
    INVALID,
    LOG_SCALES,
    LOGIT_OPACITIES,
    OK,
    OVERFLOW,
    UNSUPPORTED,
    VERSION,
    AvLaunch,
)
from cuda_ext.abi.gaussians import (
    CAMERA_GROUP,
    CAMERA_SUMS,
    AvProject,
    AvProjectBackward,
    AvProjected,
    AvRasterize,
    AvRasterizeBackward,
    AvScene,
    AvSplatBackward,
    AvSplatForward,
)
from cuda_ext.abi.grids import HASH_HEADS, AvHash, AvHashTables
from cuda_ext.abi.meshes import AvAntialias, AvInterpolate, AvMesh, AvMeshBackward
from cuda_ext.abi.pictures import AvCompose
from cuda_ext.abi.skin import AvSkin
from cuda_ext.abi.training import ADAM_COLUMNS, HALF_MOMENTS, WHOLE_GRAD, AvAdam, AvAdamTensor, AvSsim
from cuda_ext.abi.volumes import MARCH_RUNS, AvComposite, AvCompositeBackward, AvMarch

__all__ = [
    "ADAM_COLUMNS",
    "ANTIALIASED",
    "CAMERA_GROUP",
    "CAMERA_SUMS",
    "DEVICE",
    "FOR_GRADIENTS",
    "FUNCTIONS",
    "HALF_MOMENTS",
    "HASH_HEADS",
    "INVALID",
    "MARCH_RUNS",
    "LOG_SCALES",
    "LOGIT_OPACITIES",
    "OK",
    "OVERFLOW",
    "STRUCTURES",
    "UNSUPPORTED",
    "VERSION",
    "WHOLE_GRAD",
    "AvLaunch",
    "AvAdam",
    "AvAdamTensor",
    "AvBind",
    "AvBindBackward",
    "AvBlend",
    "AvCarry",
    "AvCarryBackward",
    "AvCompose",
    "AvComposite",
    "AvCompositeBackward",
    "AvMarch",
    "AvHash",
    "AvHashTables",
    "AvAntialias",
    "AvInterpolate",
    "AvMesh",
    "AvMeshBackward",
    "AvPenalty",
    "AvProject",
    "AvProjectBackward",
    "AvProjected",
    "AvRasterize",
    "AvRasterizeBackward",
    "AvScene",
    "AvSkin",
    "AvSplatBackward",
    "AvSplatForward",
    "AvSsim",
]

_FAMILIES = (gaussians, binding, training, meshes, grids, skin, pictures, volumes)

STRUCTURES: tuple[type[c.Structure], ...] = (AvLaunch, *(s for family in _FAMILIES for s in getattr(family, "STRUCTURES", ())))

# name → (result, arguments). Functions that take one structure return an AvStatus.
FUNCTIONS: dict[str, tuple[type, list]] = {k: v for family in _FAMILIES for k, v in family.FUNCTIONS.items()}
