"""Whether a training computes in bfloat16 or in float32."""

import torch
from torch import distributed

from audiolib.progress import say

PRECISIONS = ("float32", "bfloat16")


def settle(asked: str, device: torch.device, begun: str | None = None) -> str:
    """`float32` or `bfloat16`: what was asked for; `auto` is bfloat16 where every worker's hardware computes in it.

    Args:
        asked: of `train.precision`.
        device: where this worker computes; of several workers all call this.
        begun: what the first worker knows of an unfinished training that asked for `auto`: it goes on in float32
            wherever it is taken up, in bfloat16 where the hardware has it.
    """
    if asked == "bfloat16" and device.type == "cpu" and not cpu_has_bf16():
        say(
            "this CPU has no bfloat16 and imitates it, many times slower than float32; set precision to float32 or auto"
        )
    if asked != "auto":
        return asked
    everywhere, told = torch.tensor(int(has_bf16(device)), device=device), [begun]
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(everywhere, distributed.ReduceOp.MIN)
        distributed.broadcast_object_list(told)
    return "bfloat16" if everywhere.item() and told[0] != "float32" else "float32"


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself."""
    return torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else cpu_has_bf16()


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies matrices of bfloat16 itself (AVX-512 BF16, AMX, Arm's BF16), by oneDNN.

    oneDNN takes bfloat16 on every CPU with AVX-512; without these instructions it is slower there than float32.
    """
    able = torch.cpu.get_capabilities()
    return torch.backends.mkldnn.is_available() and any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
