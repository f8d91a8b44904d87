"""The report in a headless browser: tables sort, plots follow, videos keep in step."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.__main__ import main
from analysis.choosing.frontiers import frontier, objectives
from analysis.section import Section
from analysis.sources.results import sections
from harness.benchmarks.made_up import FPS, NUM_PIXEL_FRAMES
from harness.results.quantities import QUANTITIES
from tests.support.browser import Watched, chromium, watched
from tests.support.filmed import EVIL, NUM_METHODS, write_filmed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("made")
    write_filmed(top)
    return top


@pytest.fixture(scope="module")
def section(results: Path) -> Section:
    (found,) = sections(results)
    return found


@pytest.fixture(scope="module")
def report(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "report"
    assert main(["report", str(results), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Any) -> Iterator[Watched]:
    """A page that must have asked for nothing and complained of nothing when the test ends."""
    with watched(browser) as found:
        yield found
        assert found.errors == []
        assert found.requests == []


@pytest.fixture(scope="module")
def overview(browser: Any, report: Path) -> Iterator[Any]:
    """The overview, opened once for tests that leave it as they found it."""
    with watched(browser) as found:
        yield found.go(report / "index.html")
        assert found.errors == []
        assert found.requests == []


def test_every_page_opens_from_disk_without_a_word(report: Path, page: Watched) -> None:
    said: list[str] = []
    page.page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    for path in sorted(report.rglob("*.html")):
        shown = page.go(path)
        assert shown.locator("h1").count() == 1
        assert shown.locator("main").count() == 1
        assert shown.locator("[onerror]").count() == 0
    assert said == []
    shown = page.go(report / "prompts/moviegen-000.html")
    assert EVIL in shown.locator("main .lead").inner_text()


def order(shown: Any, column: int) -> list[float]:
    texts = shown.evaluate(
        "(at) => [...document.querySelectorAll('table.sortable tbody tr')]"
        ".map((row) => row.cells[at].dataset.v)",
        column,
    )
    return [float(text) if text else float("nan") for text in texts]


def test_headings_sort_by_number_with_mouse_and_keys(section: Section, overview: Any) -> None:
    shown = overview
    headings = shown.locator("table.sortable thead th")
    titles = [text.split("\n")[0].strip() for text in headings.all_inner_texts()]
    for title in ("runtime", "PSNR"):
        at = titles.index(title)
        quantity = next(each for each in QUANTITIES.values() if each.title == title)
        best_first = sorted(
            section.values[quantity.name].dropna(), reverse=quantity.better == "higher"
        )
        for key in ("click", "press"):
            heading = headings.nth(at).locator("button")
            heading.click() if key == "click" else heading.press("Enter")
            found = [x for x in order(shown, at) if x == x]
            assert found == (best_first if key == "click" else best_first[::-1])
            turned = headings.nth(at).get_attribute("aria-sort")
            assert turned == ("ascending" if found == sorted(found) else "descending")
        assert np.isnan(order(shown, at)[-1]) == section.values[quantity.name].isna().any()
    assert shown.locator("th[aria-sort=ascending], th[aria-sort=descending]").count() == 1


def test_the_table_filters_by_words_and_family(section: Section, overview: Any) -> None:
    shown = overview
    rows = shown.locator("table.sortable tbody tr:visible")
    assert rows.count() == NUM_METHODS
    families = {method.family for method in section.methods.values()}
    chosen = sorted(families)[-1]
    shown.locator("[data-family]").first.select_option(chosen)
    assert rows.count() == sum(m.family == chosen for m in section.methods.values())
    assert f"of {NUM_METHODS} methods" in shown.locator("[data-count]").inner_text()
    shown.locator("select[data-family]").select_option("")
    shown.locator("[data-filter]").fill("BF16")
    assert rows.count() == sum("bf16" in name for name in section.methods)
    shown.locator("[data-filter]").fill("")
    assert rows.count() == NUM_METHODS


def test_other_axes_change_the_plot_and_its_frontier(section: Section, overview: Any) -> None:
    shown = overview
    axes = shown.locator(".axes")
    said = axes.locator("[data-part=said]")
    texts = set()
    for x, y in (("ratio", "ssim"), ("runtime_s", "lpips"), ("kv_gib", "imaging")):
        axes.locator("[data-part=x]").select_option(x)
        axes.locator("[data-part=y]").select_option(y)
        names = frontier(objectives(section), [x, y])
        headings = " and ".join(QUANTITIES[each].heading for each in (x, y))
        assert said.inner_text().startswith(f"On the frontier of {headings}: {', '.join(names)}.")
        drawn = shown.evaluate(
            "() => document.querySelector('.axes .plot').data.filter((t) => t.mode === 'markers')"
            ".flatMap((t) => t.x)"
        )
        wanted = objectives(section)[[x, y]].dropna()[x]
        assert sorted(drawn) == pytest.approx(sorted(wanted))
        assert ", ".join(names) in (axes.locator(".plot").get_attribute("aria-label") or "")
        texts.add(said.inner_text())
    assert len(texts) == 3


WATCH = """() => {
  window.seen = new Map();
  window.samples = [];
  const videos = [...document.querySelectorAll('.tile:not([hidden]) video')];
  for (const video of videos) {
    const note = (_, { mediaTime }) => {
      seen.set(video, Math.round(mediaTime * FPS));
      video.requestVideoFrameCallback(note);
    };
    video.requestVideoFrameCallback(note);
  }
  const sample = () => {
    if (seen.size === videos.length) samples.push(videos.map((video) => seen.get(video)));
    requestAnimationFrame(sample);
  };
  sample();
}""".replace("FPS", str(FPS))


def stands(shown: Any, frame: int | None = None) -> None:
    """Wait until all videos stand and show one frame: this one, and the one that the page says.

    A busy browser may draw a picture and never report it. Once all stand where they were sought,
    each is moved away and back to its place, and reports what it shows there.
    """
    from playwright.sync_api import TimeoutError as TooLate

    shown.wait_for_function(
        "() => [...document.querySelectorAll('video')].every((v) => v.paused && !v.seeking)",
        timeout=60_000,
    )
    for patience in (3_000, 60_000):
        try:
            shown.wait_for_function(STANDS, arg=frame, timeout=patience)
            return
        except TooLate:
            if patience == 60_000:
                raise
            shown.evaluate(AWAY_AND_BACK)


AWAY_AND_BACK = """() => Promise.all([...document.querySelectorAll('video')].map(async (video) => {
  const at = video.currentTime;
  for (const to of [at > 1 ? at - 1 : at + 1, at]) {
    video.currentTime = to;
    await new Promise((done) => video.addEventListener('seeked', done, { once: true }));
  }
}))"""

STANDS = """(wanted) => {
  const found = new Set(seen.values()), [frame] = found;
  return found.size === 1 && (wanted === null || frame === wanted)
    && [...document.querySelectorAll('video')].every((v) => v.paused && !v.seeking)
    && document.querySelector('[data-part=said]').textContent.startsWith(`frame ${frame + 1} of`);
}"""


@pytest.fixture
def player(report: Path, page: Watched) -> Any:
    shown = page.go(report / "prompts/moviegen-000.html")
    shown.wait_for_function(
        "() => [...document.querySelectorAll('video')].every((v) => v.readyState >= 3)"
    )
    shown.evaluate(WATCH)
    shown.locator("[data-part=forward]").click()
    stands(shown, 1)
    return shown


def test_videos_stay_within_a_frame_of_each_other(player: Any) -> None:
    for speed in ("1", "2"):
        player.locator("[data-part=speed]").select_option(speed)
        # A busy machine may draw pictures too late for the page to help: then play once more.
        for _ in range(3):
            player.evaluate("() => { samples.length = 0; }")
            player.locator("[data-part=play]").click()
            player.wait_for_timeout(1200)
            samples = player.evaluate("() => samples")
            player.locator("[data-part=play]").click()
            moved = {tuple(each) for each in samples}
            apart = [max(each) - min(each) for each in samples]
            in_step = np.mean(np.array(apart) <= 1) > 0.9 and max(apart) <= 3
            if len(moved) > 5 and in_step:
                break
        assert len(moved) > 5, "the videos did not play"
        assert in_step, apart
        stands(player)


def test_scrubs_and_steps_show_the_same_frame_everywhere(player: Any) -> None:
    scrub = player.locator("[data-part=scrub]")
    for frame in (80, 3, 163, 41):
        scrub.evaluate(
            "(e, to) => { for (const at of [5, 100, to]) { e.value = at;"
            " e.dispatchEvent(new Event('input')); } }",
            frame,
        )
        stands(player, frame)
    player.locator("[data-part=back]").click()
    stands(player, 40)


def test_the_player_is_worked_by_keys(player: Any) -> None:
    player.locator("main").focus()
    for key, frame in (
        ("ArrowRight", 2), ("ArrowRight", 3), ("ArrowLeft", 2), ("Shift+ArrowRight", 2 + FPS),
        ("End", NUM_PIXEL_FRAMES - 1), ("ArrowRight", NUM_PIXEL_FRAMES - 1), ("Home", 0),
    ):  # fmt: skip
        player.keyboard.press(key)
        stands(player, frame)
    player.keyboard.press("Space")
    player.wait_for_function("() => document.querySelector('video').paused === false")
    player.keyboard.press("Space")
    stands(player)


def test_the_end_loops_or_stands(player: Any) -> None:
    loop = player.locator("[data-part=loop]")
    for is_on in (False, True):
        loop.set_checked(is_on)
        player.locator("[data-part=end]").click()
        player.locator("[data-part=back]").click()
        player.locator("[data-part=back]").click()
        player.locator("[data-part=play]").click()
        if is_on:
            player.wait_for_function(
                "() => { const v = document.querySelector('video');"
                " return !v.paused && v.currentTime < 5; }"
            )
        else:
            stands(player, NUM_PIXEL_FRAMES - 1)
            assert player.locator("[data-part=play]").inner_text() == "Play"


def test_methods_can_be_hidden_and_come_back_in_step(player: Any) -> None:
    player.locator(".choose summary").click()
    player.locator("[data-part=none]").click()
    assert player.locator(".tile:visible").count() == 0
    player.locator("[data-choose]").nth(1).check()
    assert player.locator(".tile:visible").count() == 1
    player.keyboard.press("End")
    player.locator("[data-part=all]").click()
    assert player.locator(".tile:visible").count() == NUM_METHODS
    stands(player, NUM_PIXEL_FRAMES - 1)


def test_keys_reach_everything_and_the_focus_is_seen(report: Path, page: Watched) -> None:
    shown = page.go(report / "index.html")
    shown.keyboard.press("Tab")
    assert shown.evaluate("() => document.activeElement.className") == "skip"
    assert (shown.locator(".skip").bounding_box() or {"x": -1})["x"] >= 0
    reached = set()
    for _ in range(60):
        shown.keyboard.press("Tab")
        reached.add(
            shown.evaluate(
                "() => { const e = document.activeElement; const style = getComputedStyle(e);"
                " return e.closest('th') ? 'heading' : e.matches('td a') ? 'card' : e.dataset.part"
                " || (style.outlineStyle === 'none' ? 'unseen' : ''); }"
            )
        )
    assert {"heading", "card", "x", "y"} <= reached
    assert "unseen" not in reached


@pytest.mark.parametrize("name", ["index.html", "provenance.html", "prompts", "methods"])
def test_a_phone_scrolls_nothing_sideways(name: str, report: Path, browser: Any) -> None:
    paths = [report / name] if name.endswith("html") else sorted((report / name).iterdir())
    with watched(browser, width=390, height=844) as found:
        for path in paths:
            shown = found.go(path)
            shown.wait_for_timeout(200)
            assert shown.evaluate("() => document.documentElement.scrollWidth") <= 390, path


def test_dark_follows_the_system_and_the_button_is_remembered(report: Path, browser: Any) -> None:
    def paper(shown: Any) -> int:
        colour = shown.evaluate("() => getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    with watched(browser, color_scheme="dark") as found:
        shown = found.go(report / "index.html")
        assert paper(shown) < 150
        shown.locator("[data-theme-button]").click()
        assert paper(shown) > 600
        assert paper(found.go(report / "provenance.html")) > 600
        assert found.errors == []


NAMES = """() => [...document.querySelectorAll("[data-plot] .textpoint text")]
  .filter((name) => name.textContent)
  .map((name) => name.getBoundingClientRect())
  .map(({ left, top, right, bottom }) => [left, top + 2, right, bottom - 2])"""  # less its leading


@pytest.mark.parametrize("width", [1280, 390])
def test_names_of_marks_never_meet(width: int, report: Path, browser: Any) -> None:
    with watched(browser, width=width) as found:
        page = found.go(report / "index.html")
        for plot in page.locator("[data-plot]").all():
            if plot.is_visible():
                plot.scroll_into_view_if_needed()
        page.wait_for_function("document.querySelectorAll('[data-plot] .points').length > 3")
        boxes = page.evaluate(NAMES)
    assert bool(boxes) == (width > 540)  # on a phone marks are named by touch and in the table
    for i, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[:i]:
            across = min(right, other[2]) - max(left, other[0])
            assert across <= 1 or min(bottom, other[3]) - max(top, other[1]) <= 1


def test_plots_have_words_and_numbers_beside_them(overview: Any) -> None:
    shown = overview
    for more in shown.locator("details.more > summary").all():
        more.click()
    plots = shown.locator("figure.drawn")
    assert plots.count() >= 6
    for plot in plots.all():
        plot.scroll_into_view_if_needed()
        label = plot.locator("[role=img]").get_attribute("aria-label") or ""
        assert len(label) > 20
        assert plot.locator("details p").text_content() == label
        assert plot.locator("details table tbody tr").count() > 0
        # Figures are drawn near the screen first and the others one by one, so it may take a while.
        plot.locator(".main-svg").first.wait_for(state="visible")


CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (colour) => {
    const [r, g, b] = rgb(colour).map((x) => x / 255)
      .map((x) => (x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const style = getComputedStyle(document.documentElement);
  const probe = document.body.appendChild(document.createElement('i'));
  const of = (name) => {
    probe.style.color = `var(${name})`;
    return light(getComputedStyle(probe).color);
  };
  const found = {};
  for (const paper of ['--paper', '--raised']) {
    for (const ink of ['--ink', '--faint', '--link', '--better', '--worse']) {
      const [a, b] = [of(paper), of(ink)].sort((x, y) => y - x);
      found[ink + paper] = (a + 0.05) / (b + 0.05);
    }
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_the_paper(scheme: str, report: Path, browser: Any) -> None:
    with watched(browser, color_scheme=scheme) as found:
        ratios = found.go(report / "provenance.html").evaluate(CONTRAST)
    assert len(ratios) == 10
    assert min(ratios.values()) >= 4.5, ratios
