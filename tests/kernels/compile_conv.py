"""Compiles the Triton programs of the causal convolution for a GPU, which need not be there; run by a test.

In a process of its own: where there is no GPU, the tests have Triton interpret what it imports.
"""

from itertools import product

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from audiolib.kernels.causal_conv import triton_kernels
from audiolib.kernels.causal_conv.triton_conv import CHANNELS, TOKENS

FLOATS = {
    "conv_forward": ("x", "weight", "bias", "out"),
    "conv_slopes": ("x", "weight", "bias", "grad", "slopes", "to_weight", "to_bias"),
    "conv_inputs": ("slopes", "weight", "to_x"),
}

for (name, floats), reverse, half in product(FLOATS.items(), (False, True), ("*fp32", "*bf16")):
    program = getattr(triton_kernels, name)
    sizes = {"WINDOW": 4, "REVERSE": reverse, "TOKENS": TOKENS, "CHANNELS": CHANNELS}
    kinds = dict.fromkeys(program.arg_names, "i32") | {"places": "*i64"}
    kinds |= dict.fromkeys(floats, "*fp32") | {part: half for part in ("x", "grad") if part in floats}
    kinds = {argument: kinds[argument] for argument in program.arg_names} | dict.fromkeys(sizes, "constexpr")
    made = triton.compile(ASTSource(program, kinds, constexprs=sizes), target=GPUTarget("cuda", 90, 32))
    print(name, len(made.asm["cubin"]))
