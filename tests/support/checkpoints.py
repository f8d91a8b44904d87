"""Checkpoints of a tiny network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

DIM, FFN, TEXT, FREQ, CHANNELS = 24, 32, 40, 16, 4
State = dict[str, Tensor]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(DIM, DIM) for _ in range(4))
        self.norm_q, self.norm_k = nn.RMSNorm(DIM), nn.RMSNorm(DIM)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.zeros(1, 6, DIM))
        self.self_attn, self.cross_attn = Attention(), Attention()
        self.norm3 = nn.LayerNorm(DIM)
        self.ffn = nn.Sequential(nn.Linear(DIM, FFN), nn.GELU(), nn.Linear(FFN, DIM))


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.zeros(1, 2, DIM))
        self.head = nn.Linear(DIM, 4 * CHANNELS)


class Network(nn.Module):
    """A tiny network with the native parameter names of Wan2.1."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv3d(CHANNELS, DIM, (1, 2, 2))
        self.text_embedding = nn.Sequential(nn.Linear(TEXT, DIM), nn.GELU(), nn.Linear(DIM, DIM))
        self.time_embedding = nn.Sequential(nn.Linear(FREQ, DIM), nn.SiLU(), nn.Linear(DIM, DIM))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(DIM, 6 * DIM))
        self.blocks = nn.ModuleList(Block() for _ in range(layers))
        self.head = Head()


def meta_network(layers: int = 2) -> Network:
    with torch.device("meta"):
        return Network(layers)


def random_state(seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: x.shape for name, x in meta_network().state_dict().items()}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path
