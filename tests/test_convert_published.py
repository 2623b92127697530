"""Weights in the layouts of FlexiAST, ElasticAST and Audio Mamba: the logits are those of their computation, done here
with timm's and transformers' modules, or with plain products where there is none (papers.md 2.1, 5.1, 4.1).
"""

import pytest
import torch
from timm import create_model as create_vit
from torch.nn.functional import conv2d, gelu, layer_norm, linear
from transformers import MambaConfig as TheirConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from audiolib.batches import pack
from audiolib.convert_published import from_published
from audiolib.models.audio_mamba import AudioMamba
from audiolib.models.spectrogram_transformer import SpectrogramTransformer
from tests.test_cli import audiolib
from tests.test_convert import sounds

FRAMES = 96


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    for name, parameter in module.named_parameters():
        if not name.endswith("A_log"):
            torch.nn.init.normal_(parameter, std=0.1)
    return module.eval()


def pixels() -> torch.Tensor:
    """(m, 1, f, t), as their models see it."""
    return torch.stack(sounds(FRAMES)).transpose(1, 2)[:, None]


def agree(ours: torch.nn.Module, converted: dict, wanted: torch.Tensor) -> None:
    ours.load_state_dict(converted)
    with torch.inference_mode():
        found = ours.eval()(pack(sounds(FRAMES)))
    assert wanted.std() > 0.05
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tokens", [1, 2])
def test_flexiast_takes_the_kernel_and_positions_beside_the_vit(tokens):
    torch.manual_seed(0)
    vit = create_vit("deit_tiny_distilled_patch16_224" if tokens == 2 else "vit_tiny_patch16_224", depth=2)
    randomised(vit)
    kernel, bias, places = torch.randn(192, 1, 16, 16) / 10, torch.randn(192), torch.randn(1, tokens + 48, 192)
    head = randomised(torch.nn.Sequential(torch.nn.LayerNorm(192), torch.nn.Linear(192, 5)))
    with torch.inference_mode():
        x = conv2d(pixels(), kernel, bias, stride=16).flatten(2).transpose(1, 2)
        lead = [vit.cls_token, vit.dist_token][:tokens] if tokens == 2 else [vit.cls_token]
        x = torch.cat([*(token.expand(len(x), -1, -1) for token in lead), x], 1) + places
        wanted = head(vit.norm(vit.blocks(x))[:, :tokens].mean(1))
    state = {f"module.v.{name}": tensor for name, tensor in vit.state_dict().items()}
    state |= {f"module.mlp_head.{name}": tensor for name, tensor in head.state_dict().items()}
    state |= {"module.patch_embed.proj.weight": kernel, "module.patch_embed.proj.bias": bias}
    config, converted, left = from_published(state | {"module.pos_embed.pos_embed": places}, 10)
    agree(SpectrogramTransformer(config), converted, wanted)
    assert config.frames == FRAMES and {"v.pos_embed", "v.patch_embed.proj.weight"} < set(left)


def elastic(width: int = 128, depth: int = 2, steps: int = 9) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    sizes = {"patch_embed.0.weight": (width, 256), "patch_embed.0.bias": (width,)}
    sizes |= {"pos_embed_freq": (8, width), "pos_embed_time": (steps, width), "attn_pool_queries": (width,)}
    for lead in (*(f"blocks.modules_list.{n}.attn" for n in range(depth)), "attn_pool"):
        for name, rows in (("to_q", width), ("to_kv", 2 * width), ("proj", width)):
            sizes |= {f"{lead}.{name}.weight": (rows, width), f"{lead}.{name}.bias": (rows,)}
    for n in range(depth):
        for name, shape in (("fc1", (4 * width, width)), ("fc2", (width, 4 * width))):
            sizes |= {f"blocks.modules_list.{n}.mlp.{name}.weight": shape}
            sizes |= {f"blocks.modules_list.{n}.mlp.{name}.bias": shape[:1]}
    norms = [f"blocks.modules_list.{n}.norm{k}" for n in range(depth) for k in (1, 2)] + ["norm", "mlp_norm"]
    sizes |= {f"{norm}.{kind}": (width,) for norm in norms for kind in ("weight", "bias")}
    sizes |= {"head.weight": (5, width), "head.bias": (5,)}
    return {name: torch.randn(*size) / (10 if len(size) > 1 else 3) for name, size in sizes.items()}


def elastic_logits(state: dict[str, torch.Tensor], mel: torch.Tensor) -> torch.Tensor:
    """One clip, token by token: two heads, no 1 / sqrt(64)."""

    def part(name: str, x: torch.Tensor) -> torch.Tensor:
        return linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def attend(name: str, query: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        q, (k, v) = part(f"{name}.to_q", query), part(f"{name}.to_kv", x).chunk(2, -1)
        heads = [(q[:, s] @ k[:, s].T).softmax(-1) @ v[:, s] for s in (slice(0, 64), slice(64, 128))]
        return part(f"{name}.proj", torch.cat(heads, -1))

    steps = len(mel) // 16
    tokens = [
        part("patch_embed.0", mel[16 * t : 16 * t + 16, 16 * f : 16 * f + 16].T.flatten())
        + state["pos_embed_freq"][f] + state["pos_embed_time"][t]
        for f in range(8) for t in range(steps)
    ]  # fmt: skip
    x = torch.stack(tokens)
    for n in range(2):
        lead = f"blocks.modules_list.{n}"
        own = norm(f"{lead}.norm1", x)
        x = x + attend(f"{lead}.attn", own, own)
        x = x + part(f"{lead}.mlp.fc2", gelu(part(f"{lead}.mlp.fc1", norm(f"{lead}.norm2", x))))
    pooled = attend("attn_pool", state["attn_pool_queries"][None], norm("norm", x))
    return part("head", norm("mlp_norm", pooled))[0]


def test_elasticast_with_its_unscaled_attention_and_factorised_positions(tmp_path):
    state = elastic()
    wanted = torch.stack([elastic_logits(state, mel) for mel in sounds(FRAMES)])
    config, converted, left = from_published({f"module.{name}": tensor for name, tensor in state.items()}, 10)
    model = SpectrogramTransformer(config)
    agree(model, converted, wanted)
    longer = [torch.cat([mel, mel[:9]]) for mel in sounds(FRAMES)]
    with torch.inference_mode():  # What does not fill a patch is left out.
        torch.testing.assert_close(model(pack(longer)), wanted, rtol=1e-4, atol=1e-4)
    with torch.inference_mode():  # A patch has its position by its number, whatever the hop.
        coarse = model(pack(list(sounds(FRAMES)), stretch=[2.0] * len(wanted)))
    torch.testing.assert_close(coarse, wanted, rtol=1e-4, atol=1e-4)
    assert config.frames == 144 and config.attention_scale == 1 and left == []
    torch.save(state, tmp_path / "elastic.pth")
    done = audiolib("convert", tmp_path / "elastic.pth", tmp_path / "out", "--pickle")
    assert done.returncode == 0 and f"{len(state)} of {len(state)} tensors carried" in done.stdout


def published_mamba(directions: str, depth: int = 2) -> tuple[dict, list[list[MambaMixer]]]:
    """A state under their names, and the mixers of transformers that hold it: one a block, or one for each way."""
    torch.manual_seed(0)
    config = TheirConfig(hidden_size=64, state_size=16, num_hidden_layers=1, conv_kernel=4, time_step_rank=4)
    state = {
        "cls_token": torch.randn(1, 1, 64), "pos_embed.pos_embed": torch.randn(1, 1 + 48, 64) / 3,
        "patch_embed.proj.weight": torch.randn(64, 1, 16, 16) / 10, "patch_embed.proj.bias": torch.randn(64),
        "norm_f.weight": torch.rand(64) + 0.5, "head.weight": torch.randn(5, 64), "head.bias": torch.randn(5),
    }  # fmt: skip
    mixers = []
    for n in range(depth):
        ways = [randomised(MambaMixer(config, layer_idx=0)) for _ in range(2 if directions == "bi-bi" else 1)]
        for shared in ("in_proj", "out_proj"):
            ways[-1].get_submodule(shared).load_state_dict(ways[0].get_submodule(shared).state_dict())
        state[f"layers.{n}.norm.weight"] = torch.rand(64) + 0.5
        state |= {f"layers.{n}.mixer.{name}": tensor for name, tensor in ways[0].state_dict().items()}
        for name, tensor in ways[1].state_dict().items() if directions == "bi-bi" else ():
            if not name.startswith(("in_proj", "out_proj")):
                first, _, rest = name.partition(".")
                own = "A_b_log" if first == "A_log" else f"{first}_b" + (f".{rest}" if rest else "")
                state[f"layers.{n}.mixer.{own}"] = tensor
        mixers.append(ways)
    return state, mixers


@pytest.mark.parametrize("directions", ["fo-fo", "bi-bi"])
def test_audio_mamba_by_the_mixers_of_transformers(directions):
    state, mixers = published_mamba(directions)

    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight

    with torch.inference_mode():
        x = conv2d(pixels(), state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16)
        x = x.flatten(2).transpose(1, 2) + state["pos_embed.pos_embed"][:, 1:]
        token = (state["cls_token"] + state["pos_embed.pos_embed"][:, :1]).expand(len(x), -1, -1)
        x = torch.cat([x[:, :24], token, x[:, 24:]], 1)
        for n, ways in enumerate(mixers):
            own = norm(x, state[f"layers.{n}.norm.weight"])
            made = [ways[0](own), *(way(own.flip(1)).flip(1) for way in ways[1:])]
            x = x + sum(made) / len(made)
        wanted = linear(norm(x, state["norm_f.weight"])[:, 24], state["head.weight"], state["head.bias"])
    config, converted, left = from_published(state, 10)
    assert config.directions == directions and config.frames == FRAMES and left == []
    agree(AudioMamba(config), converted, wanted)


def test_the_default_of_audio_mamba_is_known_by_its_second_decay():
    state, _ = published_mamba("fo-fo")
    state |= {f"layers.{n}.mixer.A_b_log": state[f"layers.{n}.mixer.A_log"] + 1 for n in range(2)}
    config, converted, _ = from_published(state | {"rope.freqs_cos": torch.zeros(1)}, 10)
    AudioMamba(config).load_state_dict(converted)
    assert config.directions == "fo-bi"
    assert torch.equal(converted["blocks.1.mixer.back_A_log"], converted["blocks.1.mixer.A_log"] + 1)
