"""Translates tensor names between training wrappers, native, diffusers and LoRA names."""

from __future__ import annotations

import re

# Names that PyTorch's sharding, checkpointing and compilation put into the names of a module.
_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
_LORA = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")

# The order matters. The norms have different numbers: diffusers' norm2 is the native norm3, and
# diffusers' norm3 has no weights.
_TO_DIFFUSERS = (
    ("time_embedding.0.", "condition_embedder.time_embedder.linear_1."),
    ("time_embedding.2.", "condition_embedder.time_embedder.linear_2."),
    ("text_embedding.0.", "condition_embedder.text_embedder.linear_1."),
    ("text_embedding.2.", "condition_embedder.text_embedder.linear_2."),
    ("time_projection.1.", "condition_embedder.time_proj."),
    ("fps_projection.0.", "fps_projection.net.0.proj."),
    ("fps_projection.2.", "fps_projection.net.2."),
    ("head.modulation", "scale_shift_table"),
    ("head.head.", "proj_out."),
    (".modulation", ".scale_shift_table"),
    (".self_attn.", ".attn1."),
    (".cross_attn.", ".attn2."),
    *((f".{name}.", f".to_{name}.") for name in "qkv"),
    (".o.", ".to_out.0."),
    (".norm3.", ".norm2."),
    (".ffn.0.", ".ffn.net.0.proj."),
    (".ffn.2.", ".ffn.net.2."),
)


def diffusers_name(native: str) -> str:
    """Return diffusers' name of a native tensor of Wan2.1 or SkyReels-V2."""
    for ours, theirs in _TO_DIFFUSERS:
        native = native.replace(ours, theirs)
    return native


def is_diffusers(name: str) -> bool:
    """Return whether a plain name shows that the model uses diffusers' names."""
    # Every such model has some names that begin like this.
    return name.startswith("condition_embedder.")


def plain(key: str) -> str:
    """Return a key of a file without names of training wrappers and without a leading `model.`."""
    return _unwrapped(key).removeprefix("model.")


def lora_part(key: str) -> tuple[str, str] | None:
    """Return the weight that a LoRA key changes and its factor, `A` or `B`; None for other keys.

    Source  peft's names, `base_model.model.<path>.lora_A.weight`, adapter `default` named or not.
    """
    found = _LORA.fullmatch(_unwrapped(key))
    if found is None:
        return None
    return f"{found[1].removeprefix('base_model.model.').removeprefix('model.')}.weight", found[2]


def _unwrapped(key: str) -> str:
    # Anywhere in a name: blocks are wrapped one by one.
    for wrapper in _WRAPPERS:
        key = key.replace(wrapper, "")
    return key


def some(names: list[str]) -> str:
    """Return the first three names as text, for messages."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
