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
from audiolib.kernels.selective_scan import triton_kernels as scan
from audiolib.kernels.selective_scan.triton_scan import BLOCK, CHUNK

# Pointers to whole numbers; what is kept in the dtype of the model; what is a number. Other pointers are to float32.
WHOLE = {"places": "*i64", "bounds": "*i32", "chunk_first": "*i32"}
HALF = {conv: {"x", "grad"}, scan: {"u", "delta", "b", "c", "z", "grad"}}
NUMBERS = {"n", "e", "segments", "total_chunks"}
SWITCHES = dict.fromkeys(("SOFTPLUS", "HAS_D", "HAS_Z", "HAS_BIAS", "HAS_FIRST", "SAVE"), True)
SIZES = {"WINDOW": 4, "TOKENS": TOKENS, "CHANNELS": CHANNELS, "J": 16, "BLOCK": BLOCK, "CHUNK": CHUNK, **SWITCHES}


def compiled(module: Any, name: str, dtype: str, reverse: bool) -> int:
    """Bytes of a program's machine code."""
    program, kinds = getattr(module, name), {}
    fixed = {key: value for key, value in {**SIZES, "REVERSE": reverse}.items() if key in program.arg_names}
    for argument in program.arg_names:
        if argument in fixed:
            kinds[argument] = "constexpr"
        elif argument in NUMBERS or argument.endswith("stride"):
            kinds[argument] = "i32"
        else:
            kinds[argument] = WHOLE.get(argument, dtype if argument in HALF[module] else "*fp32")
    made = triton.compile(ASTSource(program, kinds, constexprs=fixed), target=GPUTarget("cuda", 90, 32))
    return len(made.asm["cubin"])


PROGRAMS = [(conv, name) for name in ("conv_forward", "conv_slopes", "conv_inputs")]
PROGRAMS += [(scan, name) for name in ("scan_forward", "scan_backward")]
for (module, name), dtype, reverse in product(PROGRAMS, ("*fp32", "*bf16"), (False, True)):
    print(name, compiled(module, name, dtype, reverse))
