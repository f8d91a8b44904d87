from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from harness.commands.run import CONF
from harness.prompts.suite import Prompt
from harness.results.run import Run
from harness.scoring.judge.judge import spaced
from harness.scoring.judge.nobody import NO_JUDGE, Nobody
from harness.scoring.judge.openai import OpenAI
from harness.scoring.judge.question import TEMPLATE, read
from harness.scoring.metrics.metric import Clip, Unavailable, Unscorable
from harness.scoring.metrics.storyeval import StoryEval
from harness.system.errors import UserError
from tests.support.runs import run
from tests.support.scored import finish, leave, row

KEY = "sk-a-secret-that-nobody-may-see"
EVENTS = ("A newt swims", "A newt shakes off water", "A newt naps")


class Server:
    """An endpoint that gives the replies it was told, the last one for good."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, dict[str, str], str]] = []
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.delay_s = 0.0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(
                    self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}"
                )
                server.requests.append((self.path, dict(self.headers), body))
                time.sleep(server.delay_s)
                status, headers, text = server.replies[
                    min(len(server.requests), len(server.replies)) - 1
                ]
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(text.encode())
                except OSError:  # whoever asked has gone
                    pass

            do_GET = do_POST  # what a redirect turns a question into

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def says(self, *replies: str | tuple[int, dict[str, str], str]) -> None:
        self.replies = [(200, {}, each) if isinstance(each, str) else each for each in replies]

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def completion(content: str | None, reason: str = "stop", **message: Any) -> str:
    return json.dumps(
        {"choices": [{"message": {"content": content, **message}, "finish_reason": reason}]}
    )


def verdict(*completed: Any) -> str:
    entries = [
        {"event": i, "reason": f"seen {i}", "completed": said}
        for i, said in enumerate(completed, 1)
    ]
    return json.dumps({"events": entries})


def judge(server: Server, **changes: Any) -> OpenAI:
    settings = {"api_key_env": "JUDGE_KEY", "num_frames": 3, "backoff_s": 0.01, "attempts": 3}
    return OpenAI(base_url=server.url, model="sees-all", **{**settings, **changes})


def clip(num_frames: int = 9, size_HW: tuple[int, int] = (8, 12), **changes: Any) -> Clip:
    """Every frame differs from every other."""
    shape = (num_frames, *size_HW, 3)
    frames = np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)
    return Clip(frames, 16, 1, **{"prompt": "A newt", "events": EVENTS, **changes})


def measured(metric: StoryEval, video: Clip | None = None) -> dict[str, Any]:
    return dict(metric.measure(video or clip(), None, "cpu"))


def test_a_right_answer_is_a_row(server: Server) -> None:
    server.says(completion(verdict(True, False, True)))
    metric = StoryEval(judge(server))
    row = measured(metric)
    assert row == {
        "storyeval_completion": pytest.approx(2 / 3),
        "storyeval_all_completed": 0,
        "storyeval_num_events": 3,
        "storyeval_completed": [1.0, 0.0, 1.0],
        "storyeval_agreement": None,
        "storyeval_explanation": "1: seen 1 2: seen 2 3: seen 3",
    }
    assert list(row) == [column.name for column in metric.columns()]
    for column in metric.columns():
        kind = list if column.kind == list[float] else column.kind
        assert row[column.name] is None or isinstance(row[column.name], kind)
    server.says(completion(verdict(True, True, True)))
    assert measured(metric)["storyeval_all_completed"] == 1


def test_what_the_endpoint_is_asked(server: Server) -> None:
    server.says(completion(verdict(True, False, True)))
    video = clip()
    measured(StoryEval(judge(server, seed=7)), video)
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert (body["model"], body["temperature"], body["seed"]) == ("sees-all", 0, 7)
    assert body["response_format"] == {"type": "json_object"}
    text, *shown = body["messages"][0]["content"]
    places = [text["text"].index(f"{i}. {event}\n") for i, event in enumerate(EVENTS, 1)]
    assert places == sorted(places)
    assert "3 frames" in text["text"]
    frames = [decoded(part["image_url"]["url"]) for part in shown]
    assert np.array_equal(frames, video.frames_THWC[[0, 4, 8]])


def decoded(url: str) -> np.ndarray:
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_large_frames_are_made_smaller_and_jpeg_is_jpeg(server: Server) -> None:
    server.says(completion(verdict(True, False, True)))
    asked = judge(server, max_side_px=24, image_format="jpeg", temperature=None, json_mode=False)
    measured(StoryEval(asked), clip(size_HW=(32, 48)))
    body = server.requests[0][2]
    assert {"temperature", "response_format"}.isdisjoint(body)
    head, _, data = body["messages"][0]["content"][1]["image_url"]["url"].partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (head, image.format, image.size) == ("data:image/jpeg;base64", "JPEG", (24, 16))


@pytest.mark.parametrize(
    ("num_frames", "most", "indices"),
    [(11, 5, [0, 3, 5, 8, 10]), (3, 8, [0, 1, 2]), (165, 2, [0, 164]), (9, 1, [0]), (1, 4, [0])],
)
def test_frames_are_evenly_spaced(num_frames: int, most: int, indices: list[int]) -> None:
    assert spaced(num_frames, most) == indices


@pytest.mark.parametrize(
    "answer",
    [
        verdict(True, False),
        f"```json\n{verdict(True, False)}\n```",
        f"Here is what I saw:\n```\n{verdict(1, 0)}\n```\nThat is all.",
        f"My answer is {verdict(True, False)} as you asked.",
    ],
)
def test_an_answer_is_read_through_fences_and_words(answer: str) -> None:
    assert read(answer, 2).completed == (True, False)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("I am sorry, I cannot watch this.", "no JSON list of events: 'I am sorry, I cannot"),
        ("", "no JSON list of events: ''"),
        ("[true, false]", "no JSON list"),
        ('{"events": "both"}', "no JSON list"),
        ('{"events": [{"event": 1, "comp', "no JSON list"),
        (verdict(True), "about 1 events instead of 2"),
        (verdict(True, True, True), "about 3 events instead of 2"),
        (verdict(True, None), "true or false of event 2"),
        (verdict(True, "yes"), "true or false of event 2"),
        (verdict(0.5, True), "true or false of event 1"),
        ('{"events": [true, false]}', "true or false of event 1"),
        (
            '{"events": [{"event": 2, "completed": true}, {"event": 1, "completed": false}]}',
            "true or false of event 1",
        ),
    ],
)
def test_a_malformed_answer_is_a_reason(server: Server, answer: str, reason: str) -> None:
    server.says(completion(answer))
    with pytest.raises(Unscorable, match=reason) as caught:
        measured(StoryEval(judge(server)), clip(events=EVENTS[:2]))
    assert not isinstance(caught.value, Unavailable)  # the same question has the same answer
    assert len(server.requests) == 1


def test_a_long_answer_is_quoted_by_its_first_words() -> None:
    with pytest.raises(Unscorable) as caught:
        read("word " * 500, 2)
    assert len(str(caught.value)) < 160


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (completion(None, refusal="I will not look at newts."), "refuses: 'I will not look"),
        (completion("", "content_filter"), "the judge refuses"),
        (completion(verdict(True, True, True)[:20], "length"), "cut at judge.max_tokens"),
        (completion(None), "no JSON list of events"),
    ],
)
def test_a_refusal_is_a_reason(server: Server, reply: str, reason: str) -> None:
    server.says(reply)
    with pytest.raises(Unscorable, match=reason) as caught:
        measured(StoryEval(judge(server)))
    assert not isinstance(caught.value, Unavailable)


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_endpoint_is_asked_again(server: Server, status: int) -> None:
    server.says((status, {"Retry-After": "0.01"}, "later"), completion(verdict(True, True, False)))
    assert measured(StoryEval(judge(server)))["storyeval_completed"] == [1.0, 1.0, 0.0]
    assert len(server.requests) == 2
    assert server.requests[0][2] == server.requests[1][2]


def test_an_endpoint_that_keeps_failing_is_a_reason_for_now(server: Server) -> None:
    server.says((500, {}, f"overheated, says {KEY}"))
    with pytest.raises(Unavailable, match=r"HTTP 500: 'overheated.*3 times") as caught:
        measured(StoryEval(judge(server)))
    assert len(server.requests) == 3
    assert KEY not in str(caught.value)


def test_a_silent_endpoint_is_a_reason_for_now(server: Server) -> None:
    server.says(completion(verdict(True, True, True)))
    server.delay_s = 1.0
    with pytest.raises(Unavailable, match=r"sent nothing for 0\.05 s, 2 times"):
        measured(StoryEval(judge(server, timeout_s=0.05, attempts=2)))
    assert len(server.requests) == 2


def test_an_endpoint_that_is_not_there_is_a_reason_for_now(server: Server) -> None:
    gone = judge(server)
    server.close()
    with pytest.raises(Unavailable, match=r"cannot be reached.*refused.*3 times"):
        measured(StoryEval(gone))


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ((401, {}, f"Incorrect API key: {KEY[:6]}***{KEY[-4:]}"), r"refuses the key in JUDGE_KEY"),
        ((404, {}, f"no such model for {KEY}"), "HTTP 404: 'no such model for <key>'"),
        ((200, {}, "<html>welcome</html>"), "no chat completion: '<html>welcome"),
        ((200, {}, '{"choices": []}'), "no chat completion"),
    ],
)
def test_what_another_attempt_cannot_fix_is_not_tried_again(
    server: Server, reply: tuple[int, dict[str, str], str], reason: str
) -> None:
    server.says(reply)
    with pytest.raises(Unavailable, match=reason) as caught:
        measured(StoryEval(judge(server)))
    assert len(server.requests) == 1
    assert not any(part in str(caught.value) for part in (KEY, KEY[:6], KEY[-4:]))


def test_a_redirect_does_not_carry_the_key_away(server: Server) -> None:
    elsewhere = Server()
    elsewhere.says(completion(verdict(True, True, True)))
    server.says((302, {"Location": f"{elsewhere.url}/chat/completions"}, ""))
    with pytest.raises(Unavailable, match="HTTP 302"):
        measured(StoryEval(judge(server)))
    assert not elsewhere.requests
    elsewhere.close()


def test_most_votes_decide_on_each_event(server: Server) -> None:
    server.says(
        completion(verdict(True, False, True)),
        completion(verdict(True, True, False)),
        completion(verdict(True, False, False)),
    )
    row = measured(StoryEval(judge(server, seed=4, temperature=0.7), num_votes=3))
    assert row["storyeval_completed"] == [1.0, 0.0, 0.0]
    assert row["storyeval_agreement"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    assert row["storyeval_explanation"].startswith("vote 1: 1: seen 1")
    assert [body["seed"] for _, _, body in server.requests] == [4, 5, 6]


def test_one_vote_that_cannot_be_read_is_not_left_out(server: Server) -> None:
    server.says(completion(verdict(True, True, True)), completion("no"), completion("no"))
    with pytest.raises(Unscorable, match="no JSON"):
        measured(StoryEval(judge(server), num_votes=3))


def test_a_prompt_without_events_is_a_reason(server: Server) -> None:
    with pytest.raises(Unscorable, match="no events: choose suite=storyeval"):
        measured(StoryEval(judge(server)), clip(events=()))
    assert not server.requests


def test_what_is_missing_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert StoryEval(Nobody()).missing() == NO_JUDGE
    assert "judge.base_url=https" in str(OpenAI(model="m").missing())
    assert "judge.model=" in str(OpenAI(base_url="https://host/v1").missing())
    assert StoryEval(judge(server)).missing() is None
    monkeypatch.delenv("JUDGE_KEY")
    without = StoryEval(judge(server))
    assert "environment variable JUDGE_KEY: export it" in str(without.missing())
    with pytest.raises(Unavailable, match="JUDGE_KEY"):
        measured(without)
    server.says(completion(verdict(True, True, True)))
    measured(StoryEval(judge(server, api_key_env=None)))
    assert "Authorization" not in server.requests[0][1]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"api_key_env": KEY}, "judge.api_key_env is no name"),
        ({"base_url": f"https://me:{KEY}@host/v1"}, "holds more than host and path"),
        ({"base_url": f"https://host/v1?key={KEY}"}, "holds more than host and path"),
        ({"base_url": "host/v1"}, "judge.base_url: give one like"),
        ({"image_format": "gif"}, "choose png or jpeg"),
        ({"num_frames": 0}, "at least 1 frame"),
        ({"max_side_px": 0}, "at least 16"),
        ({"attempts": 0}, "positive"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        OpenAI(**settings)
    assert KEY not in str(caught.value)


def test_votes_must_be_able_to_decide(server: Server) -> None:
    with pytest.raises(UserError, match="num_votes=2: give an odd number"):
        StoryEval(judge(server), num_votes=2)


def test_what_decides_the_answers_is_in_the_version_and_no_secret_is(server: Server) -> None:
    def version(num_votes: int = 1, **changes: Any) -> str:
        return StoryEval(judge(server, **changes), num_votes).version()

    others = [
        version(num_votes=3),
        version(num_frames=4),
        version(seed=1),
        version(temperature=0.5),
        version(image_format="jpeg"),
        version(max_side_px=None),
        StoryEval(OpenAI("https://elsewhere/v1", "sees-all")).version(),
        StoryEval(OpenAI(server.url, "sees-more")).version(),
    ]
    assert len({version(), *others}) == len(others) + 1
    assert version(timeout_s=3, attempts=9) == version()  # how long is waited decides nothing
    assert "sees-all" in version()
    assert KEY not in version() + repr(judge(server))


def settings(*words: str) -> dict[str, Any]:
    """The metric's, as the group is composed for a command line."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("metrics/storyeval", list(words)), resolve=True)
    assert isinstance(config, dict)
    return dict(config["metrics"]["storyeval"])


def test_it_is_built_from_the_command_line(server: Server) -> None:
    nobody = instantiate(settings())
    assert nobody.missing() == NO_JUDGE
    words = [f"judge.base_url={server.url}", "judge.model=sees-all", "judge.api_key_env=JUDGE_KEY"]
    config = settings("judge=openai", *words)
    server.says(completion(verdict(True, True, False)))
    metric = instantiate(config)
    assert measured(metric)["storyeval_completion"] == pytest.approx(2 / 3)
    assert KEY not in json.dumps(config)
    shown = server.requests[0][2]["messages"][0]["content"][1:]
    assert len(shown) == 9  # of sixteen, the video has no more


def test_building_one_imports_nothing_heavy() -> None:
    code = (
        "import sys; from harness.scoring.metrics.storyeval import StoryEval;"
        "from harness.scoring.judge.openai import OpenAI; from harness.scoring.judge.local import "
        "Local;"
        "a = StoryEval(OpenAI('http://h/v1', 'm')); b = StoryEval(Local('/nowhere'));"
        "[(m.version(), m.missing(), m.columns()) for m in (a, b)];"
        "print({'torch', 'transformers', 'PIL', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_question_names_the_form_that_is_read() -> None:
    example = TEMPLATE.splitlines()[-1].format()
    assert read(example, 1).completed == (True,)


def asked(server: Server, **changes: Any) -> dict[str, Any]:
    """Settings of a run's metrics."""
    config = settings("judge=openai", f"judge.base_url={server.url}", "judge.model=sees-all")
    return {
        "storyeval": {
            **config,
            "judge": {**config["judge"], "api_key_env": "JUDGE_KEY", "backoff_s": 0.01, **changes},
        }
    }


def told(tmp_path: Path) -> Run:
    """A run with one video of a story, not scored."""
    plain = run(tmp_path, "method=bf16", metrics={"storyeval": settings()})
    prompts = (Prompt(0, "A newt swims, shakes off water, and then naps.", EVENTS),)
    this = replace(plain, suite=replace(plain.suite, prompts=prompts), reference_id=plain.run_id)
    with this.prepared():
        leave(this, 0, clip(20, (16, 24)).frames_THWC)
    return this


def test_finished_videos_are_judged_as_soon_as_there_is_a_judge(
    server: Server, tmp_path: Path
) -> None:
    this = told(tmp_path)
    assert finish(this) == ["0 storyeval"]
    assert row(this)["storyeval_reason"] == NO_JUDGE
    server.says(completion(verdict(True, False, True)))
    judged = replace(Run.from_folder(this.folder), metrics=asked(server))
    assert finish(judged) == ["0 storyeval"]
    scored = row(judged)
    assert scored["storyeval_completion"] == pytest.approx(2 / 3)
    assert scored["storyeval_completed"] == [1.0, 0.0, 1.0]
    assert scored["storyeval_reason"] is None
    assert finish(judged) == []
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not any(KEY.encode() in path.read_bytes() for path in files)


def test_an_outage_is_fixed_by_scoring_again_and_a_missing_judge_takes_nothing(
    server: Server, tmp_path: Path
) -> None:
    server.says((503, {}, "closed"))
    judged = replace(told(tmp_path), metrics=asked(server, attempts=1))
    assert finish(judged) == ["0 storyeval"]
    assert "HTTP 503: 'closed'" in row(judged)["storyeval_reason"]
    server.says(completion(verdict(True, True, True)))
    assert finish(judged) == ["0 storyeval"]
    assert row(judged)["storyeval_completion"] == 1
    without = replace(judged, metrics={"storyeval": settings()})
    assert finish(without) == []
    assert row(judged)["storyeval_completion"] == 1
