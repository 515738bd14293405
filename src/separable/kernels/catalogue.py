"""All kernels in one list. In: the value that describes one. Out: its IR under a name made from that value."""

from __future__ import annotations

import hashlib

from separable.kernels import (
    across,
    chain,
    convolution,
    depthwise,
    elementwise,
    gathering,
    group_norm,
    moving,
    pooling,
    resampling,
    shifting,
    strassen,
    winograd,
)
from separable.kernels.across import Normalise, Reduce, Softmax
from separable.kernels.chain import Chain
from separable.kernels.convolution import Convolution
from separable.kernels.depthwise import Depthwise
from separable.kernels.elementwise import Elementwise
from separable.kernels.gathering import Gather
from separable.kernels.group_norm import GroupNorm
from separable.kernels.ir import Module
from separable.kernels.isa import Isa
from separable.kernels.moving import Move
from separable.kernels.pooling import GlobalAverage, Pool
from separable.kernels.resampling import Resample
from separable.kernels.shifting import Shift
from separable.kernels.strassen import Strassen
from separable.kernels.winograd import Winograd

Kernel = (
    Chain
    | Convolution
    | Depthwise
    | Pool
    | GlobalAverage
    | Elementwise
    | Gather
    | GroupNorm
    | Move
    | Normalise
    | Softmax
    | Reduce
    | Resample
    | Shift
    | Strassen
    | Winograd
)


def name_of(kernel: Kernel) -> str:
    """One name a kernel: equal values share their code."""
    return f"{type(kernel).__name__.lower()}_{hashlib.sha256(repr(kernel).encode()).hexdigest()[:16]}"


def source_of(kernel: Kernel, isa: Isa) -> str:
    """The LLVM module with the one function ``name_of(kernel)``."""
    module, name = Module(), name_of(kernel)
    match kernel:
        case Convolution():
            convolution.write(module, name, kernel, isa)
        case Chain():
            chain.write(module, name, kernel, isa)
        case Depthwise():
            depthwise.write(module, name, kernel, isa)
        case Pool() | GlobalAverage():
            pooling.write(module, name, kernel, isa)
        case Elementwise():
            elementwise.write(module, name, kernel, isa)
        case Gather():
            gathering.write(module, name, kernel, isa)
        case GroupNorm():
            group_norm.write(module, name, kernel, isa)
        case Move():
            moving.write(module, name, kernel, isa)
        case Normalise() | Softmax() | Reduce():
            across.write(module, name, kernel, isa)
        case Resample():
            resampling.write(module, name, kernel, isa)
        case Shift():
            shifting.write(module, name, kernel, isa)
        case Strassen():
            strassen.write(module, name, kernel, isa)
        case Winograd():
            winograd.write(module, name, kernel, isa)
    return module.text
