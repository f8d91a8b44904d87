"""Counts of what a cache encodes and decodes, against what one video must give."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.api import Exact, Method
from harness.cache.attention.auto import Auto
from harness.cache.attention.base import Backend
from harness.cache.attention.portable import Portable
from harness.cache.attention.reference import Reference
from harness.cache.published import Published
from harness.sampling.noise import SeededNoise
from harness.sampling.passes import NullObserver
from harness.sampling.sampler import Sampler
from harness.sampling.schedule import Schedule
from methods.quantizers.rtn import RTN
from methods.retention.keep import KeepAll
from tests.support.geometry import BF16, CPU, GRID, generate, network, spec, text

INT4 = Method(key=RTN(bits=4), value=RTN(bits=4), retention=KeepAll())
NUM_CHUNKS, PASSES = 4, 5  # twelve frames in chunks of three: four denoising passes and a commit
SPEC = spec()
CHUNK_BYTES = SPEC.bf16_frame_bytes * SPEC.chunk_frames


def test_each_chunk_is_encoded_once_and_decoded_in_every_later_pass() -> None:
    _, session = generate(INT4)
    traffic = session.traffic
    assert traffic.encode_calls == NUM_CHUNKS * SPEC.num_layers * 2
    assert traffic.encode_bytes == NUM_CHUNKS * CHUNK_BYTES
    earlier = sum(range(NUM_CHUNKS))  # chunks that are stored when a chunk begins
    assert traffic.decode_bytes == PASSES * earlier * CHUNK_BYTES


def test_exact_storage_has_no_traffic_and_half_a_method_half_of_it() -> None:
    _, exact = generate(BF16)
    assert (exact.traffic.encode_calls, exact.traffic.decode_bytes) == (0, 0)
    _, both = generate(INT4)
    _, keys = generate(replace(INT4, value=Exact()))
    assert 2 * keys.traffic.encode_bytes == both.traffic.encode_bytes
    assert 2 * keys.traffic.decode_calls == both.traffic.decode_calls


@pytest.mark.parametrize("backend", [Reference(), Portable(axis="tokens", tile_tokens=8)])
def test_the_tiles_of_a_backend_do_not_count(backend: Backend) -> None:
    _, session = generate(INT4, backend=backend)
    _, other = generate(INT4)
    assert session.traffic == other.traffic


def test_the_published_integration_encodes_everything_again_in_every_pass() -> None:
    build, net = Published(), network()
    session = build.session(SPEC, INT4, build.resolve(Auto(), SPEC, INT4, CPU), 12, CPU)
    noise = SeededNoise(0, (12, 4, 2 * GRID[0], 2 * GRID[1]))
    sampler = Sampler(net, Schedule(), SPEC.chunk_frames)
    list(sampler.sample(session, text(net, 0), noise, 12, NullObserver()))
    packed = generate(INT4)[1].traffic
    assert session.traffic.encode_calls == PASSES * packed.encode_calls
    assert session.traffic.encode_bytes > PASSES * packed.encode_bytes
