"""Video files: what is written is read back, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from harness.results import video_files
from harness.results.contact_sheet import contact_sheet
from harness.results.video_files import Frames
from harness.system.errors import UserError


def noise(num_frames: int = 5, height: int = 32, width: int = 48, seed: int = 0) -> Frames:
    shape = (num_frames, height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def flat(colour: tuple[int, int, int], num_frames: int, height: int, width: int) -> Frames:
    return np.tile(np.array(colour, np.uint8), (num_frames, height, width, 1))


def decoded(path: Path) -> Frames:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.mark.parametrize(
    ("height", "width"), [(32, 48), (33, 65), (7, 129), (5, 3), (2, 2), (480, 832)]
)
def test_lossless_is_bit_exact(tmp_path: Path, height: int, width: int) -> None:
    frames = noise(3, height, width)
    video_files.write_lossless(tmp_path / "v.mkv", frames, fps=16)
    back = video_files.read_lossless(tmp_path / "v.mkv")
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, frames)


def test_the_same_frames_are_the_same_file(tmp_path: Path) -> None:
    """Containers like to write random ids and dates; rows carry digests of these files."""
    frames = noise(3, 32, 48)
    for write, ending in ((video_files.write_lossless, "mkv"), (video_files.write_mp4, "mp4")):
        first, second = (tmp_path / f"{name}.{ending}" for name in "ab")
        write(first, frames, 16)
        write(second, frames, 16)
        assert first.read_bytes() == second.read_bytes()


def test_lossless_takes_views_single_frames_and_broken_rates(tmp_path: Path) -> None:
    frames = noise(6)[::2, ::-1, 4:]
    frames.flags.writeable = False
    video_files.write_lossless(tmp_path / "v.mkv", frames, fps=23.976)
    np.testing.assert_array_equal(video_files.read_lossless(tmp_path / "v.mkv"), frames)
    with av.open(str(tmp_path / "v.mkv")) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(23.976, abs=1e-3)
    video_files.write_lossless(tmp_path / "v.mkv", frames[:1], fps=16)
    assert video_files.read_lossless(tmp_path / "v.mkv").shape == (1, 32, 44, 3)


def test_equal_frames_are_equal_files(tmp_path: Path) -> None:
    for name in ("a.mkv", "b.mkv"):
        video_files.write_lossless(tmp_path / name, noise(), fps=16)
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9])
def test_file_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "v.mkv"
    video_files.write_lossless(path, noise(8), fps=16)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"v\.mkv.*type `rm") as caught:
        video_files.read_lossless(path)
    assert "\n" not in str(caught.value)


def test_one_wrong_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.mkv"
    video_files.write_lossless(path, noise(8), fps=16)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        video_files.read_lossless(path)


def test_missing_file_and_file_of_another_origin_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.mkv is missing"):
        video_files.read_lossless(tmp_path / "none.mkv")
    video_files.write_mp4(tmp_path / "v.mp4", noise(), fps=16)
    with pytest.raises(UserError, match="of this harness"):
        video_files.read_lossless(tmp_path / "v.mp4")


@pytest.mark.parametrize(
    "frames",
    [noise(0), noise()[0], noise()[..., :2], noise().astype(np.float32)],
    ids=["no frames", "one image", "two channels", "floats"],
)
def test_what_is_no_video_is_not_written(tmp_path: Path, frames: Frames) -> None:
    for write in (video_files.write_lossless, video_files.write_mp4):
        with pytest.raises(ValueError, match="uint8"):
            write(tmp_path / "v", frames, 16)
    with pytest.raises(ValueError, match="uint8"):
        contact_sheet(tmp_path / "v", [("a", frames)])
    assert not list(tmp_path.iterdir())


def test_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "v.mkv"
    video_files.write_lossless(path, noise(seed=1), fps=16)

    def encode_half(container: object, stream: object, frames: Frames) -> None:
        real_encode(container, stream, frames[:2])
        assert [p.name for p in tmp_path.iterdir() if p != path], "written under its own name"
        raise KeyboardInterrupt

    real_encode = video_files._encode
    monkeypatch.setattr(video_files, "_encode", encode_half)
    with pytest.raises(KeyboardInterrupt):
        video_files.write_lossless(path, noise(seed=2), fps=16)
    assert list(tmp_path.iterdir()) == [path]
    np.testing.assert_array_equal(video_files.read_lossless(path), noise(seed=1))


@pytest.mark.parametrize(("height", "width"), [(64, 96), (63, 95), (1, 1)])
def test_mp4_has_all_frames_even_sides_and_the_colours(
    tmp_path: Path, height: int, width: int
) -> None:
    colour = (200, 60, 120)
    video_files.write_mp4(tmp_path / "v.mp4", flat(colour, 9, height, width), fps=16)
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 16
    back = decoded(tmp_path / "v.mp4")
    assert back.shape == (9, height + height % 2, width + width % 2, 3)
    np.testing.assert_allclose(back.reshape(-1, 3), np.tile(colour, (back.size // 3, 1)), atol=4)


def opened(path: Path) -> Frames:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def test_contact_sheet_shows_each_video_in_its_row(tmp_path: Path) -> None:
    red, blue = (255, 0, 0), (0, 0, 255)
    rows = [("bf16", flat(red, 20, 36, 64)), ("rtn_int4\n31 dB", flat(blue, 20, 36, 64))]
    contact_sheet(tmp_path / "s.png", rows, columns=5, fps=16)
    sheet = opened(tmp_path / "s.png")
    height, width = 36 * 3, 64 * 3  # enlarged by the first whole factor that reaches 160
    for colour in (red, blue):
        assert (sheet == colour).all(2).sum() == 5 * height * width
    assert list(tmp_path.iterdir()) == [tmp_path / "s.png"]


def test_contact_sheet_spaces_its_columns_over_the_shortest_video(tmp_path: Path) -> None:
    shades = np.arange(0, 210, 10, dtype=np.uint8)  # one shade a frame: 0, 10, ... 200
    ramp = np.broadcast_to(shades[:, None, None, None], (21, 20, 200, 3))
    rows = [("long", ramp), ("short", ramp[:9])]
    contact_sheet(tmp_path / "s.png", rows, columns=3, fps=16)
    sheet = opened(tmp_path / "s.png")
    blocks = {shade: (sheet == shade).all(2).sum() for shade in range(0, 210, 10)}
    assert {shade for shade, count in blocks.items() if count >= 2 * 20 * 200} == {0, 40, 80}


def test_contact_sheet_shrinks_large_frames_and_keeps_few_frames_single(tmp_path: Path) -> None:
    contact_sheet(tmp_path / "s.png", [("a", flat((255, 0, 0), 2, 480, 832))], columns=8)
    red = (opened(tmp_path / "s.png") == (255, 0, 0)).all(2).sum()
    assert red == 2 * 256 * round(480 * 256 / 832)


def test_contact_sheet_needs_a_row_and_a_column(tmp_path: Path) -> None:
    for rows, columns in (([], 8), ([("a", noise())], 0)):
        with pytest.raises(ValueError, match="at least one"):
            contact_sheet(tmp_path / "s.png", rows, columns)
