"""What a question may be, what is told of a prompt that is too long, and what a call costs."""

from __future__ import annotations

import gc
import http.server
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from llava.images.source import Download, UnreadableImageError
from llava.inference import GenerationOptions, Inference, Question

SHORT = GenerationOptions(max_new_tokens=6)


@pytest.fixture(scope="module")
def inference(oracle_dir: Path) -> Inference:
    return Inference.load(oracle_dir / "tiny-llava-v1.5", device="cpu", compression="visionzip:54+10")


@pytest.fixture
def picture(oracle_dir: Path) -> Path:
    return oracle_dir / "images" / "landscape.png"


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """An address, and what has been asked of it: `/a.png?1` is an image too, `/text` is none, all else is missing."""
    content = io.BytesIO()
    Image.new("RGB", (40, 30), (9, 200, 9)).save(content, "PNG")
    hits: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hits.append(self.path)
            path = self.path.split("?")[0]
            self.send_response(200 if path in ("/a.png", "/text") else 404)
            self.end_headers()
            self.wfile.write(content.getvalue() if path == "/a.png" else b"not an image")

        def log_message(self, *args: Any) -> None:
            pass

    serving = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}", hits
    serving.shutdown()
    serving.server_close()
    thread.join()


def test_a_cut_prompt_is_reported(
    inference: Inference, picture: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    short, long = Question("What?", (picture,)), Question("What is this? " * 20, (picture,))
    whole = [inference.ask_one(question.text, *question.images, options=SHORT) for question in (short, long)]
    assert [answer.truncated for answer in whole] == [False, False]
    for limit in (whole[0].prompt_tokens, 80):
        monkeypatch.setattr(inference.model.config, "tokenizer_model_max_length", limit, raising=False)
        seen: list[int] = []
        norm = inference.model.model.language_model.norm
        handle = norm.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output.shape[1]))
        answers = [next(inference.ask([question], options=SHORT)) for question in (short, long)]
        handle.remove()
        assert [answer.truncated for answer in answers] == [limit == 80, True]
        assert answers[1].prompt_tokens == limit == max(seen), "what is told is what was run"
        assert answers[1].lost_tokens == whole[1].prompt_tokens - limit
        with pytest.raises(ValueError, match=rf"{whole[1].prompt_tokens} tokens long.* the model sees {limit} "):
            inference.ask_one(long.text, picture, options=SHORT)
    told = [record.getMessage() for record in caplog.records if "tokenizer_model_max_length" in record.getMessage()]
    lost = whole[1].prompt_tokens - whole[0].prompt_tokens
    assert len(told) == 1 and f"its last {lost} tokens are not seen" in told[0]
    before = inference.prompt(short).split("<image>")[0]
    assert answers[0].visual_tokens == 80 - len(inference.tokenize(before)), "the image itself was cut"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 3.0}, "top_p must be above 0 and at most 1, got 3.0"),
        ({"num_beams": 0}, "num_beams must be 1 to 1024, got 0"),
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerationOptions(**wrong)


def test_one_image_is_not_a_tuple() -> None:
    for image in ("a.png", Path("a.png"), b"png"):
        with pytest.raises(TypeError, match=r"images are a tuple, got .*a?.*png.*\(image,\)"):
            Question("What?", image)  # type: ignore[arg-type]


def test_a_url_is_downloaded_once_a_call(inference: Inference, server: tuple[str, list[str]]) -> None:
    address, hits = server
    questions = [Question(f"Is there a {number}?", (f"{address}/a.png",)) for number in range(20)]
    answers = list(inference.ask(questions, batch_size=1, options=GenerationOptions(max_new_tokens=1)))
    assert len(answers) == 20 and all(answer.visual_tokens == 64 for answer in answers)
    assert hits == ["/a.png"] and inference.usage.images_encoded == 1


def downloads_held() -> int:
    return sum(type(thing) is Download for thing in gc.get_objects())


def test_a_download_is_held_until_it_is_encoded(inference: Inference, server: tuple[str, list[str]]) -> None:
    """Not longer, and no shorter: a batch that was too large needs it again."""
    address, hits = server
    questions = [Question("What?", (f"{address}/a.png?{number}",)) for number in range(16)]
    refused: list[int] = []

    def refuse_first(module: torch.nn.Module, arguments: Any, keywords: Any) -> None:
        if not refused:
            refused.append(downloads_held())
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = inference.model.model.multi_modal_projector.register_forward_pre_hook(refuse_first, with_kwargs=True)
    answers = inference.ask(questions, batch_size=None, options=GenerationOptions(max_new_tokens=1))
    try:
        held = [downloads_held() for number, _ in enumerate(answers) if number % 4 == 3]
    finally:
        handle.remove()
    assert refused == [16] and held == [12, 8, 4, 0]
    assert len(hits) == 16 and inference.usage.images_encoded == 16


def test_a_bad_url_is_asked_once_and_named(inference: Inference, server: tuple[str, list[str]]) -> None:
    address, hits = server
    bad = [f"{address}/missing.png", f"{address}/text"]
    questions = [Question("What?", (url,)) for url in bad * 3]
    answers = sorted(inference.ask(questions, skip_errors=True), key=lambda answer: answer.index)
    assert all(url in (answer.error or "") for url, answer in zip(bad * 3, answers, strict=True))
    assert sorted(hits) == ["/missing.png", "/text"]
    with pytest.raises(UnreadableImageError, match=r"missing\.png"):
        inference.ask_one("What?", bad[0])


def test_a_separator_ends_every_row_of_a_batch_alike(inference: Inference, picture: Path) -> None:
    """With no end token, a row that has said the separator would go on while the others still speak."""
    model = inference.model
    v0 = Inference(inference.tokenizer, model, inference.image_processor, conv_mode="v0")
    ids = v0.tokenizer("one two ### three four", add_special_tokens=False).input_ids
    cut = v0.until_end([*ids, 0, 0])
    assert v0.tokenizer.decode(cut).endswith("###") and v0.until_end(cut) == cut
    assert v0.until_end(ids[:2]) == ids[:2] and v0.until_end([]) == []
    assert inference.until_end(ids) == ids, "its separator is the end token"


def test_compression_none_is_vanilla_and_none_given_is_the_stored_one(
    inference: Inference, oracle_dir: Path, tmp_path: Path
) -> None:
    inference.model.save_pretrained(tmp_path)
    inference.tokenizer.save_pretrained(tmp_path)
    inference.image_processor.save_pretrained(tmp_path)
    assert str(Inference.load(tmp_path, device="cpu").model.compression) == "visionzip:54+10"
    assert Inference.load(tmp_path, device="cpu", compression=None).model.compression is None
    loaded = Inference.load(tmp_path, device="cpu", compression="none", torch_dtype="bfloat16").model
    assert loaded.compression is None and loaded.dtype == torch.bfloat16


@pytest.mark.parametrize("wrong", [{"device": "gpu"}, {"torch_dtype": "sum"}, {"torch_dtype": "flaot16"}])
def test_wrong_device_and_dtype_are_value_errors(oracle_dir: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong.values()))):
        Inference.load(oracle_dir / "tiny-llava-v1.5", **{"device": "cpu"} | wrong)
