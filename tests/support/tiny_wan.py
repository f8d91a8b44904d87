"""A tiny model of the Wan family with all of its files, in the published layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from harness.models.decoders.wan_vae import WanVae
from harness.models.preset import VideoModel
from harness.models.text.folder_encoder import UmT5Text
from harness.models.wan import Wan, WanDims, init_weights
from harness.sampling.schedule import Schedule

WORDS = ["a", "red", "fox", "runs", "through", "snow", "&", "cat", "dog", "the", "very", "long"]
DIMS = WanDims(
    dim=64, num_layers=2, num_heads=2, ffn_dim=96, latent_channels=16, text_dim=32, freq_dim=16
)
VAE = {
    "base_dim": 3,
    "z_dim": 16,
    "dim_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
}
CHECKPOINT, PARTS = "weights/tiny.pt", "weights/parts"


def tiny_model(**changes: Any) -> VideoModel:
    """Build the preset."""
    settings: dict[str, Any] = {
        "dims": DIMS,
        "schedule": Schedule(),
        "text": UmT5Text(PARTS, length=12, width=DIMS.text_dim, dtype="float32"),
        "decoder": WanVae(PARTS, dtype="float32"),
        "latent_size": (4, 8),
        "chunk_frames": 3,
        "fps": 16,
        "dtype": "float32",
        "weights": "checkpoint",
        "checkpoint": CHECKPOINT,
    }
    return VideoModel(**{**settings, **changes})


def choose(folder: Path, name: str = "tiny", **changes: Any) -> Path:
    """Write a folder of choices with the preset as one YAML file that extends self_forcing."""
    said: dict[str, Any] = {
        "defaults": ["self_forcing", "_self_"],
        "dims": {
            name: getattr(DIMS, name)
            for name in ("dim", "num_layers", "num_heads", "ffn_dim", "text_dim", "freq_dim")
        },
        "text": {"folder": PARTS, "length": 12, "width": DIMS.text_dim, "dtype": "float32"},
        "decoder": {"folder": PARTS, "dtype": "float32"},
        "latent_size": [4, 8],
        "dtype": "float32",
        "checkpoint": CHECKPOINT,
        "source": None,
    }
    (folder / "model").mkdir(parents=True, exist_ok=True)
    text = "# A tiny relative\n" + yaml.safe_dump({**said, **changes}, sort_keys=False)
    (folder / "model" / f"{name}.yaml").write_text(text)
    return folder


def write_checkpoint(data: Path) -> Path:
    """Write a checkpoint with two sets of weights, as training does; only the second has seed 1."""
    path = data / CHECKPOINT
    path.parent.mkdir(parents=True, exist_ok=True)
    sets = {}
    for seed, name in enumerate(("generator", "generator_ema")):
        network = Wan(DIMS)
        init_weights(network, seed)
        sets[name] = {f"model.{key}": x for key, x in network.state_dict().items()}
    torch.save(sets, path)
    return path


def write_parts(data: Path) -> Path:
    """Write a random text encoder, tokenizer and VAE."""
    root = data / PARTS
    write_text(root)
    diffusers = pytest.importorskip("diffusers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        diffusers.AutoencoderKLWan(**VAE).save_pretrained(root / "vae")
    return root


def write_text(root: Path, width: int = DIMS.text_dim) -> None:
    """Write a tiny random umT5 and a tokenizer of a few words."""
    write_encoder("UMT5", root / "text_encoder", root / "tokenizer", width)


def write_encoder(family: str, encoder: Path, tokenizer: Path, width: int) -> None:
    """Write a tiny random encoder of a family of transformers, and a tokenizer of a few words."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(tokenizer)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(vocabulary),
        d_model=width,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        getattr(transformers, f"{family}EncoderModel")(config).save_pretrained(encoder)
