from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.scoring.judge.local import Local
from harness.scoring.metrics.metric import Clip, Unscorable
from harness.scoring.metrics.storyeval import StoryEval
from harness.system.errors import UserError

EVENTS = ("A newt swims", "A newt naps")
FRAMES = np.random.default_rng(0).integers(0, 256, (9, 20, 30, 3), dtype=np.uint8)
SPECIAL = ("<s>", "</s>", "<pad>", "<image>")
# What the processors of real models come with, in the least words.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endfor %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the LLaVA family with random weights, as transformers saves one."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    level = tokenizers.pre_tokenizers.ByteLevel
    words = {word: i for i, word in enumerate([*SPECIAL, *sorted(level.alphabet())])}
    bytewise = tokenizers.Tokenizer(tokenizers.models.BPE(words, []))
    bytewise.pre_tokenizer = level(add_prefix_space=False)
    bytewise.decoder = tokenizers.decoders.ByteLevel()
    names = dict(zip(("bos_token", "eos_token", "pad_token"), SPECIAL, strict=False))
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
        ),
        tokenizer=transformers.PreTrainedTokenizerFast(
            tokenizer_object=bytewise, additional_special_tokens=["<image>"], **names
        ),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=8, image_size=16, patch_size=8, projection_dim=8, **small
        ),
        text_config=transformers.LlamaConfig(
            hidden_size=16, vocab_size=len(words), max_position_embeddings=4096, **small
        ),
        image_token_id=words["<image>"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlavaForConditionalGeneration(config)
    path = tmp_path_factory.mktemp("judges") / "tiny"
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def said(judge: Local, vote: int = 0) -> str:
    """The reason that an answer of random weights comes to."""
    with pytest.raises(Unscorable, match="no JSON list of events: ") as caught:
        judge.completed(EVENTS, FRAMES, vote)
    return str(caught.value)


def test_a_model_in_a_folder_answers_and_is_loaded_once(folder: Path) -> None:
    judge = Local(str(folder), num_frames=3, max_new_tokens=24)
    assert judge.missing() is None
    assert judge.weights().keys() == {"model.safetensors"}
    assert len(judge.weights()["model.safetensors"]) == 64
    before = torch.random.get_rng_state()
    first, loaded = said(judge), judge._loaded
    assert said(judge) == first  # it does not draw
    assert judge._loaded is loaded
    assert torch.equal(torch.random.get_rng_state(), before)
    judge.close()
    assert judge._loaded is None


def test_drawn_answers_depend_on_the_vote_alone(folder: Path) -> None:
    judge = Local(str(folder), num_frames=1, max_new_tokens=24, temperature=1.0)
    assert said(judge, 0) != said(judge, 1)
    assert said(judge, 1) == said(judge, 1)


def test_what_the_model_is_shown_and_what_of_its_words_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights say no JSON, so their words are replaced; all around them is real."""
    judge = Local(str(folder), num_frames=3)
    model, processor = judge._model("cpu")
    answer = json.dumps(
        {"events": [{"completed": True, "reason": "wet"}, {"completed": False, "reason": "up"}]}
    )
    shown: dict[str, Any] = {}

    def speak(input_ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
        shown.update(inputs, text=processor.decode(input_ids[0]))
        words = processor.tokenizer(answer, return_tensors="pt").input_ids
        return torch.cat([input_ids, words], dim=1)

    monkeypatch.setattr(model, "generate", speak)
    row = StoryEval(judge).measure(Clip(FRAMES, 16, 1, events=EVENTS), None, "cpu")
    assert row["storyeval_completed"] == [1.0, 0.0]
    assert row["storyeval_explanation"] == "1: wet 2: up"
    assert "1. A newt swims\n2. A newt naps\n" in shown["text"]
    expected = processor.image_processor(
        [FRAMES[i] for i in (0, 4, 8)], return_tensors="pt"
    ).pixel_values
    assert torch.equal(shown["pixel_values"], expected)
    assert shown["do_sample"] is False


def test_what_a_folder_lacks_is_said(tmp_path: Path) -> None:
    assert "type judge.path=<folder" in str(Local().missing())
    assert f"{tmp_path} holds no model" in str(Local(str(tmp_path)).missing())


def test_it_is_asked_one_at_a_time_and_settings_are_checked(tmp_path: Path) -> None:
    assert StoryEval(Local(str(tmp_path))).one_at_a_time
    with pytest.raises(UserError, match=r"one answer 3 times: type judge\.temperature=0\.7"):
        StoryEval(Local(str(tmp_path)), num_votes=3)
    StoryEval(Local(str(tmp_path), temperature=0.7), num_votes=3)
    with pytest.raises(UserError, match="a temperature from 0"):
        Local(str(tmp_path), temperature=-1)
    assert Local("a/b").identity() != Local("a/c").identity() != Local("a/c", seed=1).identity()
