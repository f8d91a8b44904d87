"""Base models: two networks, presets in `conf/model/`, loader, text encoders, decoders."""

from harness.models.decoders.preview import WanPreview
from harness.models.decoders.vit_vae import ViTCodec, ViTDims, ViTVae
from harness.models.decoders.wan_vae import WanCodec, WanVae
from harness.models.magi import Magi, MagiDims
from harness.models.preset import VideoModel
from harness.models.prompts import MagiPrompts
from harness.models.text.folder_encoder import T5Text, UmT5Text
from harness.models.text.hashed_words import HashText
from harness.models.wan import Wan, WanDims

__all__ = [
    "HashText",
    "Magi",
    "MagiDims",
    "MagiPrompts",
    "T5Text",
    "UmT5Text",
    "ViTCodec",
    "ViTDims",
    "ViTVae",
    "VideoModel",
    "Wan",
    "WanCodec",
    "WanDims",
    "WanPreview",
    "WanVae",
]
