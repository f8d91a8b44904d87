from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from harness.downloads import data_folder, download
from harness.prompts.suite import SuiteConfig, pixel_frames, resolve
from harness.system.errors import UserError
from tests.conftest import SHARED
from tests.support.geometry import CONF, configured

LIST = b"first prompt\nsecond prompt\nthird prompt\n"
SHA = hashlib.sha256(LIST).hexdigest()


def config(**changes: Any) -> SuiteConfig:
    base: dict[str, Any] = {
        "file": "prompts/mine.txt",
        "sha256": SHA,
        "url": "https://example.invalid/mine.txt",
        "bundled": "moviegen.txt",
        "seconds": 10,
    }
    return SuiteConfig(**{**base, **changes})


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(data_folder, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(download, "_unreached", {})
    for name in ("HARNESS_DATA", "HARNESS_FETCH_BASE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data" / "prompts").mkdir(parents=True)
    (tmp_path / "data" / "prompts" / "mine.txt").write_bytes(LIST)
    return tmp_path / "data"


def test_official_list_is_found_by_either_name(data: Path, monkeypatch) -> None:
    suite = resolve("mine", config(), str(data), 3, 16)
    assert [p.text for p in suite.prompts] == ["first prompt", "second prompt", "third prompt"]
    assert (suite.source, suite.sha256) == ("official", SHA)
    monkeypatch.setenv("HARNESS_DATA", str(data))
    assert resolve("mine", config(), None, 3, 16) == suite


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "end"])
@pytest.mark.parametrize("inside", [*"\u2028\u2029\x0b\x0c\x1c\x1d\x1e\x85\r", "\ufeff"])
def test_only_ends_of_lines_part_prompts(
    data: Path, mark: str, end: str, last: str, inside: str
) -> None:
    """A mark at the very beginning belongs to the file; what else looks like a line's end does not
    end one."""
    prompts = ["a fox", f"one{inside}prompt", "a river"]
    text = mark + end.join(prompts) + (end if last else "")
    (data / "prompts" / "mine.txt").write_bytes(text.encode())
    suite = resolve("mine", config(sha256=None), str(data), 3, 16)
    assert [p.text for p in suite.prompts] == prompts
    assert suite.sha256 == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has no prompts"), ("\ufeff", "has no prompts"), ("\n", "no prompt in line 1"),
        ("a\n\nb\n", "no prompt in line 2"), ("a\n\u2028\n", "no prompt in line 2"),
        ("a\n\n", "no prompt in line 2"),
    ],
)  # fmt: skip
def test_a_line_without_a_prompt_is_named(data: Path, content: str, said: str) -> None:
    (data / "prompts" / "mine.txt").write_bytes(content.encode())
    with pytest.raises(UserError, match=said):
        resolve("mine", config(sha256=None), str(data), 3, 16)


def test_offline_without_a_folder_the_bundled_prompts_serve() -> None:
    suite = resolve("mine", config(), None, 3, 16)
    assert suite.source == "bundled"
    assert len(suite.prompts) >= 16


def test_a_download_is_verified_and_kept(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_bytes(LIST)
    online = config(url=(tmp_path / "mine.txt").as_uri())
    assert resolve("mine", online, None, 3, 16).source == "official"
    assert (data_folder.CACHE / "prompts" / "mine.txt").read_bytes() == LIST
    monkeypatch.setattr(data_folder, "CACHE", data_folder.CACHE / "other")
    (tmp_path / "mine.txt").write_bytes(b"else\n")
    with pytest.raises(UserError, match="now has checksum"):
        resolve("mine", online, None, 3, 16)
    assert not list(data_folder.CACHE.glob("**/mine.txt*"))


def test_selection(data: Path) -> None:
    def chosen(**changes: Any) -> list[int]:
        return [p.index for p in resolve("m", config(**changes), str(data), 3, 16).prompts]

    assert chosen(prompts=[2, 0]) == [2, 0]
    assert chosen(prompts="1:3") == [1, 2]
    assert chosen(num_prompts=2) == [0, 1]
    assert chosen(prompts=[2, 1], num_prompts=1) == [2, 1]


def test_ten_seconds_are_42_latent_frames() -> None:
    """As the study: ceil((160 + 3) / 4) = 41, rounded up to whole chunks of 3."""
    assert resolve("m", config(), None, 3, 16).num_frames == 42
    assert pixel_frames(42) == 165


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": [0, 3]}, "has 3, but m .official. has prompts 0 to 2"),
        ({"prompts": "3:1"}, "range like 0:10"),
        ({"prompts": [True]}, "give indices"),
        ({"num_prompts": 4}, "offers 1 to 3 prompts"),
        ({"frames": 20}, "choose 18 or 21"),
        ({"seconds": None}, "have no length"),
        ({"seconds": -2}, "positive length"),
        ({"sha256": "0" * 64}, "has checksum"),
        ({"file": "prompts/none.txt"}, "no prompt file"),
        ({"file": "prompts/none.txt", "source": "official"}, "no download"),
        ({"source": "elsewhere"}, "choose auto, official or bundled"),
        ({"samples": 0}, "at least 1 sample"),
        ({"bundled": None, "source": "bundled"}, "no bundled prompts"),
    ],
)
def test_what_cannot_be_used_says_what_to_type(data: Path, changes: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve("m", config(**changes), str(data), 3, 16)


@pytest.fixture
def switching(data: Path) -> Path:
    (data / "prompts" / "mine.txt").write_text("a fox || a bear || a crow\na || b || c\n")
    return data


def test_prompts_of_a_line_begin_at_chunks(switching: Path) -> None:
    """Two seconds of 16 frames last 9 latent frames; three end inside the fifth chunk."""
    suite = resolve("m", config(sha256=None, switch_s=[2, 3.0]), str(switching), 3, 16)
    assert suite.switches == (9, 15)
    assert suite.recached == ()
    assert suite.prompts[0].texts == ("a fox", "a bear", "a crow")
    assert suite.prompts[0].text == "a fox || a bear || a crow"
    by_frame = config(sha256=None, switch_s=[2, 3], switch_frames=[6, 12], recache=True)
    suite = resolve("m", by_frame, str(switching), 3, 16)
    assert suite.switches == suite.recached == (6, 12)
    assert resolve("m", config(sha256=None), str(switching), 3, 16).prompts[1].texts == (
        "a || b || c",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"switch_s": [5, 2]}, "give rising seconds above 0"),
        ({"switch_s": [0, 2]}, "give rising seconds above 0"),
        ({"switch_s": []}, "give one switch or more"),
        ({"switch_s": [1, 1.1]}, "each in a chunk of 3 frames of its own"),
        ({"switch_s": [5, 10]}, "latent frame 42, but the videos end after 42"),
        ({"switch_frames": [6, 7]}, "latent frame 7 lies inside a chunk of 3.*choose 6 or 9"),
        ({"switch_frames": [9, 6]}, "give rising places"),
        ({"switch_frames": [0, 6]}, "give rising places"),
        ({"switch_frames": [6, 90]}, "latent frame 90, but the videos end after 42"),
        ({"switch_frames": [6]}, "has 3 prompts in line 1, but 2 follow each other"),
        ({"recache": True}, r"it never does: give suite.switch_s=\[10\]"),
    ],
)
def test_switches_that_do_not_fit_say_what_to_type(
    switching: Path, changes: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        resolve("m", config(**{"sha256": None, **changes}), str(switching), 3, 16)


def test_a_line_of_one_prompt_cannot_change_it(data: Path) -> None:
    with pytest.raises(UserError, match="has 1 prompt in line 1, but 2 follow"):
        resolve("m", config(switch_s=[5]), str(data), 3, 16)
    (data / "prompts" / "mine.txt").write_text("a fox || \n")
    with pytest.raises(UserError, match="has 1 prompt in line 1"):
        resolve("m", config(sha256=None, switch_s=[5]), str(data), 3, 16)


@pytest.mark.parametrize("content", [b"", b"one\n\nthree\n", b"\xff\xfe\x00bad"])
def test_corrupt_prompt_files_are_refused(data: Path, content: bytes) -> None:
    (data / "prompts" / "mine.txt").write_bytes(content)
    with pytest.raises(UserError):
        resolve("m", config(sha256=None), str(data), 3, 16)


def test_a_missing_data_folder_is_named() -> None:
    with pytest.raises(UserError, match="/nowhere does not exist"):
        resolve("m", config(), "/nowhere", 3, 16)


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "suite").glob("*.yaml")))
def test_shipped_suites(name: str) -> None:
    shipped = SuiteConfig(**configured(f"suite={name}")["suite"])
    if shipped.bundled is not None:
        bundled = resolve(name, SuiteConfig(**{**vars(shipped), "source": "bundled"}), None, 3, 16)
        assert len(bundled.prompts) == shipped.num_prompts
    if not (SHARED / shipped.file).is_file():
        pytest.skip(f"official list not found: {SHARED / shipped.file}")
    everything = SuiteConfig(**{**vars(shipped), "num_prompts": None})
    official = resolve(name, everything, str(SHARED), 3, 16)
    number = {"moviegen.txt": 1003, "storyeval.txt": 423, "VBench_full_info.json": 946}
    assert len(official.prompts) == number[Path(shipped.file).name]
    assert official.source == "official"


@pytest.mark.parametrize(
    ("name", "latent", "pixels"),
    [("moviegen_30s", 123, 489), ("moviegen_60s", 243, 969), ("moviegen_240s", 963, 3849),
     ("moviegen_717f", 180, 717)],
)  # fmt: skip
def test_long_rollouts_are_moviegen_at_their_own_lengths(
    name: str, latent: int, pixels: int
) -> None:
    """Chunks of 3 latent frames at 16 frames per second, as Self-Forcing."""
    long = SuiteConfig(**configured(f"suite={name}", "suite.source=bundled")["suite"])
    suite = resolve(name, long, None, 3, 16)
    assert (suite.num_frames, pixel_frames(suite.num_frames)) == (latent, pixels)
    short = SuiteConfig(**configured("suite=moviegen", "suite.source=bundled")["suite"])
    own = {"seconds", "frames", "num_prompts"}
    assert {k: v for k, v in vars(long).items() if k not in own} == {
        k: v for k, v in vars(short).items() if k not in own
    }


def test_prompts_carry_the_wording_by_which_they_are_scored(data: Path) -> None:
    short = data / "prompts" / "short.txt"
    own = config(scored_as="prompts/short.txt", prompts=[2, 0])
    with pytest.raises(UserError, match="line i is the wording by which prompt i"):
        resolve("m", own, str(data), 3, 16)
    short.write_text("first\nsecond\n")
    with pytest.raises(UserError, match=r"short.txt has 2 prompts and prompts/mine.txt 3"):
        resolve("m", own, str(data), 3, 16)
    short.write_text("first\nsecond\nthird\n")
    suite = resolve("m", own, str(data), 3, 16)
    assert [(p.text, p.scored_as) for p in suite.prompts] == [
        ("third prompt", "third"),
        ("first prompt", "first"),
    ]
    assert {p.scored_as for p in resolve("m", config(), str(data), 3, 16).prompts} == {""}


def test_a_copy_without_a_published_checksum_can_be_pinned(data: Path) -> None:
    short = data / "prompts" / "short.txt"
    short.write_text("first\nsecond\nthird\n")
    found = hashlib.sha256(short.read_bytes()).hexdigest()
    pinned = {"scored_as": "prompts/short.txt", "scored_as_sha256": found}
    assert resolve("m", config(**pinned), str(data), 3, 16).source == "official"
    short.write_text("first\nsecond\nlast\n")
    with pytest.raises(UserError, match=r"or type suite\.scored_as_sha256=[0-9a-f]{64}$"):
        resolve("m", config(**pinned), str(data), 3, 16)
    with pytest.raises(UserError, match=f"or type suite.sha256={SHA}$"):
        resolve("m", config(sha256="0" * 64, bundled=None), str(data), 3, 16)
    with pytest.raises(UserError, match=r"or type suite\.source=bundled$"):
        resolve("m", config(sha256="0" * 64), str(data), 3, 16)


@pytest.mark.parametrize(
    ("name", "needs"),
    [("physics_iq", "396 videos"), ("longvgenbench", "depth and 3-D point tracks")],
)
def test_a_benchmark_without_its_needs_refuses_with_them(name: str, needs: str) -> None:
    listed = SuiteConfig(**configured(f"suite={name}")["suite"])
    with pytest.raises(UserError, match=f"suite={name} cannot run: it needs a model .*{needs}"):
        resolve(name, listed, None, 3, 16)
