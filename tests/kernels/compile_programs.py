"""Compiles all Triton programs for a GPU, which need not be there; run by a test.

In a process of its own: where there is no GPU, the tests have Triton interpret what it imports.
"""

from itertools import product
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from audiolib.kernels.causal_conv import triton_kernels as conv
from audiolib.kernels.causal_conv.triton_conv import CHANNELS, TOKENS
from audiolib.kernels.selective_scan import triton_gradients as gradients
from audiolib.kernels.selective_scan import triton_kernels as scan
from audiolib.kernels.selective_scan.triton_scan import BLOCK, GROUP, SAVED, WARPS

# Pointers to whole numbers; what is kept in the dtype of the model; what is a number. Other pointers are to float32.
WHOLE = {"places": "*i64", "table": "*i32", "chunk_first": "*i32"}
ROWS = {"u", "delta", "b", "c", "z", "grad", "out", "to_u", "to_delta", "to_z"}
HALF = {conv: {"x", "grad"}, scan: ROWS, gradients: ROWS}
NUMBERS = {"n", "e", "segments", "total"}
GIVEN = ("SOFTPLUS", "HAS_D", "HAS_Z", "HAS_BIAS", "HAS_FIRST", "HAS_BEFORE", "HAS_CARRIED", "FLIP")
SIZES = {"WINDOW": 4, "TOKENS": TOKENS, "CHANNELS": CHANNELS, "J": 16, "BLOCK": BLOCK, "GROUP": GROUP, "SAVED": SAVED}


def compiled(module: Any, name: str, dtype: str, reverse: bool) -> int:
    """Bytes of a program's machine code; what is forward goes both ways."""
    program, kinds = getattr(module, name), {}
    values = {**SIZES, **dict.fromkeys(GIVEN, True), "REVERSE": reverse, "WAYS": 1 if reverse else 2}
    fixed = {key: value for key, value in values.items() if key in program.arg_names}
    for argument in program.arg_names:
        if argument in fixed:
            kinds[argument] = "constexpr"
        elif argument in NUMBERS or argument.endswith("stride"):
            kinds[argument] = "i32"
        else:
            kinds[argument] = WHOLE.get(argument, dtype if argument in HALF[module] else "*fp32")
    source = ASTSource(program, kinds, constexprs=fixed)
    warps = {} if module is conv else {"num_warps": WARPS}
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=warps)
    return len(made.asm["cubin"])


PROGRAMS = [(conv, name) for name in ("conv_forward", "conv_slopes", "conv_inputs")]
PROGRAMS += [(scan, name) for name in ("chunk_states", "carry_chunks", "scan_forward")]
PROGRAMS += [(gradients, name) for name in ("chunk_gradients", "scan_backward")]
for (module, name), dtype, reverse in product(PROGRAMS, ("*fp32", "*bf16"), (False, True)):
    print(name, compiled(module, name, dtype, reverse))
