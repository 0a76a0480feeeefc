"""Questions about videos: alone, among images, in batches; in a chat of several turns; what cannot be read."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from llava.eval import run_llava
from llava.images.source import UnreadableImageError
from llava.inference import GenerationOptions, Inference, Question
from llava.inference.latency import compare_latency
from llava.prompts.around import place_images, without_images
from llava.serve import cli
from llava.serve.chat import Chat
from llava.train.start import _from_checkpoint
from llava.video import Video
from tests.model.oracle_models import FIXTURES, copy_with_towers_named, load
from tests.video.files import write_video

FOLDER = FIXTURES / "video-llava"
CLIP, IMAGE = FOLDER / "clip", FOLDER / "image.png"
SHORT = GenerationOptions(max_new_tokens=6)
TEXT = "What is the person doing?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return copy_with_towers_named("video-llava", tmp_path_factory.mktemp("models")) / "tiny-video-llava-7b"


@pytest.fixture(scope="module")
def loaded(folder):
    return load(folder)


@pytest.fixture
def inference(loaded):
    tokenizer, model, image_processor = loaded
    model.set_compression("visionzip:14+3")
    image_processor.mirror_seed = None
    return Inference(tokenizer, model, image_processor)


def test_a_question_about_a_video(inference):
    answer = inference.ask_one(TEXT, Video(FOLDER / "clip.mp4"), options=SHORT)
    assert answer.frames == ((0, 2, 5, 8, 10, 13, 16, 19),) and answer.visual_tokens == 8 * 17 and answer.token_ids
    assert inference.prompt(Question(TEXT, (Video(CLIP),))).count("<image>" * 8 + "\n" + TEXT) == 1


@pytest.mark.parametrize("compression", ["visionzip:14+3", "changes:17", "fewer_frames:17"])
def test_videos_and_images_in_any_order_in_batches_as_one_by_one(compression, inference, tmp_path):
    inference.model.set_compression(compression)
    other = Video(write_video(tmp_path / "other.mp4"))
    questions = [
        Question(TEXT, (Video(CLIP),)),
        Question("First <image>, then <video>: which?", (IMAGE, Video(CLIP))),
        Question("<video> and <image> and <video>", (other, IMAGE, Video(CLIP))),
        Question("What is in the picture?", (IMAGE,)),
        Question("Another question?", (Video(CLIP),)),
    ]
    together = {answer.index: answer for answer in inference.ask(questions, batch_size=3, options=SHORT)}
    assert inference.usage.images_encoded == 3  # two clips and an image, for five questions
    for index, question in enumerate(questions):
        (alone,) = inference.ask([question], batch_size=1, options=SHORT)
        assert alone.token_ids == together[index].token_ids
        assert alone.frames == together[index].frames
        assert (
            alone.visual_tokens
            == together[index].visual_tokens
            == 17 * (8 * len(alone.frames) + (IMAGE in question.images))
        )
    assert together[2].frames == ((0, 1, 2, 3, 5, 6, 7, 9), (0, 1, 2, 3, 4, 5, 6, 7))
    assert together[3].frames == ()


def test_latency_is_measured_of_videos_too(inference):
    """Beside an image, under budgets of every sort; the counts are those of the answer."""
    budgets = [None, "visionzip:14+3", "changes:17", "mmtok:9", "coverage:6,tiles=gain"]
    for images in ((IMAGE, Video(CLIP)), (Video(CLIP),)):
        question = Question(TEXT, images)
        costs = compare_latency(inference, question, budgets, warmup=0, repeats=1)
        for budget, cost in zip(budgets, costs, strict=True):
            inference.model.set_compression(budget)
            answer = inference.ask_one(TEXT, *images, options=SHORT)
            assert (cost.visual_tokens, cost.prompt_tokens) == (answer.visual_tokens, answer.prompt_tokens)
            assert cost.vision_ms > 0 and (cost.selector_ms is None) == (budget is None)
            inference.model.set_compression("visionzip:14+3")


@pytest.mark.slow  # starts processes
def test_workers_decode_ahead(loaded, tmp_path):
    tokenizer, model, image_processor = loaded
    model.set_compression("visionzip:14+3")
    clips = [Video(write_video(tmp_path / f"{number}.mp4", 3 + number)) for number in range(8)]
    questions = [Question(TEXT, (clip,)) for clip in clips]
    options = GenerationOptions(max_new_tokens=2)
    answers = {}
    for workers in (0, 2):
        inference = Inference(tokenizer, model, image_processor, image_workers=workers)
        answers[workers] = [
            (each.index, each.token_ids, each.frames) for each in inference.ask(questions, options=options)
        ]
    assert answers[0] == answers[2]


def test_what_cannot_be_read_spoils_no_other_question(inference, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    questions = [
        Question(TEXT, (Video(tmp_path / "bad.mp4"),)),
        Question(TEXT, (Video(CLIP),)),
        Question("<video> of <image>", (IMAGE, Video(CLIP))),
        Question(TEXT, (Video(CLIP, 5),)),
        Question(TEXT, (Video(tmp_path / "nowhere.mp4"),)),
    ]
    answers = {answer.index: answer for answer in inference.ask(questions, options=SHORT, skip_errors=True)}
    assert "bad.mp4: it cannot be decoded" in answers[0].error and answers[1].error is None
    assert "the text names <video> <image>, but <image> <video> are given" in answers[2].error
    assert "5 frames of a video are asked for, and this model sees 8" in answers[3].error
    assert "nowhere.mp4: No such file" in answers[4].error
    with pytest.raises(UnreadableImageError, match=r"bad\.mp4"):
        inference.ask_one(TEXT, Video(tmp_path / "bad.mp4"))


def test_places_of_videos_in_a_text():
    config = SimpleNamespace()
    assert place_images("Why?", 2, config, {1: 3}) == "<image>\n<image><image><image>\nWhy?"
    assert place_images("<video> or <image>?", 2, config, {0: 2}) == "<image><image> or <image>?"
    assert place_images("<image> <image>\nWhy?", 1, config, {0: 2}) == "<image> <image>\nWhy?"
    assert place_images("<video> <video>", 2, config, {1: 1, 0: 2}) == "<image><image> <image>"
    assert place_images("What does <video> mean?", 1, config) == "<image>\nWhat does <video> mean?"
    for text in ("<video> <video>", "<image>", "<image> <video>"):
        with pytest.raises(ValueError, match="but <video> are given"):
            place_images(text, 1, config, {0: 2})
    assert without_images("<video>\nWhy?", videos=True) == "Why?" and "<video>" in without_images("<video>\nWhy?")


def test_methods_that_read_the_question_choose_anew_for_each(inference, loaded):
    _, model, _ = loaded
    model.set_compression("mmtok:9")
    questions = [Question(text, (Video(CLIP), IMAGE)) for text in (TEXT, "Is there a dog?")]
    together = {answer.index: answer for answer in inference.ask(questions, options=SHORT)}
    assert inference.usage.images_encoded == 2
    for index, question in enumerate(questions):
        (alone,) = inference.ask([question], options=SHORT)
        assert alone.token_ids == together[index].token_ids and alone.visual_tokens == 9 * 9


def test_a_chat_encodes_its_video_once_and_answers_as_a_fresh_run(inference, loaded, monkeypatch):
    _, model, _ = loaded
    seen = []
    encode = model.model.encode_clips
    monkeypatch.setattr(model.model, "encode_clips", lambda *given: seen.append(1) or encode(*given))
    chat = Chat(inference, [Video(CLIP), IMAGE])
    first = chat.say(TEXT, options=SHORT)
    second = chat.say("And then?", options=SHORT)
    assert len(seen) == 1 and chat.visual_tokens == 9 * 17
    fresh = inference.ask_one(f"<video>\n<image>\n{TEXT}", Video(CLIP), IMAGE, options=SHORT)
    assert fresh.text == first
    features = inference.encode([Video(CLIP), *inference.open([IMAGE])])
    ids = torch.tensor([chat.token_ids[: chat.answer_spans[1][0]]])
    made = model.generate(ids, image_features=features, do_sample=False, max_new_tokens=6)
    assert inference.decode(inference.until_end(made[0].tolist())) == second
    before = len(seen)
    chat.restart()
    assert chat.say(TEXT, options=SHORT) == first and len(seen) == before


def run_cli(monkeypatch, capsys, lines: str, *arguments: str) -> str:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    cli.main(list(arguments))
    return capsys.readouterr().out


def test_the_command_line_takes_videos(folder, monkeypatch, capsys, inference):
    flags = ("--model-path", str(folder), "--device", "cpu", "--compression", "visionzip:14+3")
    flags += (
        "--video-file",
        str(FOLDER / "clip.mp4"),
        "--image-file",
        str(IMAGE),
        "--max-new-tokens",
        "6",
        "--temperature",
        "0",
    )
    said = run_cli(monkeypatch, capsys, f"{TEXT}\nAnd then?\n\n", *flags)
    asked = f"<image>\n<video>\n{TEXT}"
    answer = inference.ask_one(asked, IMAGE, Video(FOLDER / "clip.mp4"), options=SHORT)
    assert answer.text in said and said.count("ASSISTANT") == 2


def test_one_question_in_the_terminal(folder, capsys, inference):
    clip, flags = str(FOLDER / "clip.mp4"), ("--model-path", str(folder), "--device", "cpu")
    flags += ("--compression", "visionzip:14+3", "--max-new-tokens", "6", "--temperature", "0", "--query", TEXT)
    run_llava.main([*flags, "--video-file", clip, "--image-file", str(IMAGE)])
    answer = inference.ask_one(f"<image>\n<video>\n{TEXT}", IMAGE, Video(clip), options=SHORT)
    assert capsys.readouterr().out.strip() == answer.text.strip()
    run_llava.main([*flags, "--video-file", clip])
    assert capsys.readouterr().out.strip() == inference.ask_one(TEXT, Video(clip), options=SHORT).text.strip()
    for more, message in (((), "no image and no video is given"), (("--video-file", "nowhere.mp4"), "No such file")):
        with pytest.raises(SystemExit, match=message):
            run_llava.main([*flags, *more])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--video-file", "nowhere.mp4"), "nowhere.mp4: No such file"),
        (("--video-file", str(IMAGE)), "cannot read video"),
        (("--video-file", str(CLIP), "--num-frames", "3"), "3 frames of a video are asked for, and this model sees 8"),
        (("--video-file", str(CLIP), "--num-frames", "0"), "at least 1"),
    ],
)
def test_the_command_line_says_what_is_wrong(more, message, folder, monkeypatch, capsys):
    with pytest.raises(SystemExit, match=message):
        run_cli(monkeypatch, capsys, "", "--model-path", str(folder), "--device", "cpu", *more)


def test_an_image_is_wanted(inference, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(TypeError, match="images are a tuple"):
        Question(TEXT, Video(CLIP))
    with pytest.raises(UnreadableImageError):
        inference.open([Video(tmp_path / "a.png")])


def test_training_is_refused_and_says_why(folder):
    given = SimpleNamespace(model_name_or_path=str(folder), vision_tower=None)
    stage, training = SimpleNamespace(quantised=False), SimpleNamespace(bf16=False, fp16=False)
    with pytest.raises(ValueError, match=r"tiny-video-llava-7b: a Video-LLaVA is not trained here"):
        _from_checkpoint(SimpleNamespace(model=given, stage=stage, training=training), None)
