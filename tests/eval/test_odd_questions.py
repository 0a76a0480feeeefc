"""Questions as people ask them: pictures of all modes, several, `<image>` last; tokenizers that pad on the right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from llava.eval import model_vqa_loader
from llava.eval.tasks import get_task
from llava.images.source import open_image
from llava.inference import GenerationOptions, Inference, Question
from llava.mm_utils import process_images, tokenizer_image_token
from llava.serve.chat import Chat

SHORT = GenerationOptions(max_new_tokens=8)


@pytest.fixture(scope="module", params=["tiny-llava-v1.5", "tiny-llava-v1.6-next"])
def inference(request: pytest.FixtureRequest, oracle_dir: Path) -> Inference:
    return Inference.load(oracle_dir / request.param, device="cpu", compression="visionzip:54+10")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, oracle_dir: Path) -> list[Path]:
    """The same picture in grey, with transparency, from a palette, and in 16 bits."""
    folder = tmp_path_factory.mktemp("modes")
    with Image.open(oracle_dir / "images" / "landscape.png") as colours:
        small = colours.convert("RGB").resize((90, 61))
    transparent = small.convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize(small.size))
    made = {"grey": small.convert("L"), "clear": transparent, "palette": small.convert("P"), "la": small.convert("LA")}
    made["deep"] = Image.fromarray((torch.arange(61 * 90).reshape(61, 90) * 11 % 65_536).to(torch.uint16).numpy())
    for name, picture in made.items():
        picture.save(folder / f"{name}.png")
    return sorted(folder.iterdir())


def fresh(inference: Inference, question: Question) -> list[int]:
    """LLaVA's own call, one prompt and nothing shared."""
    images = [open_image(image) for image in question.images]
    ids = tokenizer_image_token(inference.prompt(question), inference.tokenizer, return_tensors="pt")
    output = inference.model.generate(
        ids.unsqueeze(0),
        images=process_images(images, inference.image_processor, inference.model.config),
        image_sizes=[image.size for image in images],
        do_sample=False,
        max_new_tokens=8,
    )
    return [token for token in output[0].tolist() if token != inference.tokenizer.eos_token_id]


@pytest.mark.parametrize("side", ["left", "right"])
def test_modes_places_and_numbers_of_pictures_in_one_batch(
    side: str, inference: Inference, pictures: list[Path]
) -> None:
    clear, deep, grey, la, palette = pictures
    questions = [
        Question("What is this?", (grey,)),
        Question("A longer question about what is transparent here?", (clear,)),
        Question("It is the last thing: <image>", (palette,)),
        Question("<image>", (deep,)),
        Question("Is <image> like <image> or like <image>?", (la, grey, clear)),
    ]
    inference.tokenizer.padding_side = side
    answers = sorted(inference.ask(questions, batch_size=5, options=SHORT), key=lambda answer: answer.index)
    for question, answer in zip(questions, answers, strict=True):
        assert list(answer.token_ids) == fresh(inference, question), question.text
    assert inference.prompt(questions[2]).count("thing: <image> ASSISTANT:") == 1


def test_a_picture_in_a_later_turn_is_refused_and_the_chat_goes_on(inference: Inference, pictures: list[Path]) -> None:
    chat = Chat(inference, pictures[:2])
    first = chat.say("Is <image> like <image>", options=SHORT)
    with pytest.raises(ValueError, match="images come with the first message; a later one cannot name <image>"):
        chat.say("And this: <image>", options=SHORT)
    assert chat.messages == [("Is <image> like <image>", first)]
    chat.say("And then?", options=SHORT)
    assert len(chat.messages) == 2


def test_files_that_begin_with_a_byte_order_mark(tiny_data: Path, tmp_path: Path, oracle_dir: Path) -> None:
    """As editors of Windows write them."""
    mark = b"\xef\xbb\xbf"
    (tmp_path / "images").symlink_to(tiny_data / "images")
    (tmp_path / "eval_pope.json").write_bytes(mark + (tiny_data / "eval_pope.json").read_bytes())
    assert get_task("tiny_pope").load(tmp_path).samples[0].sample_id == "0"
    questions = tmp_path / "q.jsonl"
    questions.write_bytes(mark + b'{"question_id": 1, "image": "small.png", "text": "What?"}\n')
    words = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--image-folder", str(oracle_dir / "images")]
    words += ["--question-file", str(questions), "--answers-file", str(tmp_path / "a.jsonl"), "--device", "cpu"]
    assert model_vqa_loader.main([*words, "--max-new-tokens", "1"]) == 0


class Panic(BaseException):
    """As pyo3's, which is no Exception."""


class PanickingTokenizer:
    """The model's own, but for one word."""

    def __init__(self, own: object) -> None:
        self.own = own

    def __call__(self, text: str) -> object:
        if "panic" in text:
            raise Panic("index out of bounds")
        return self.own(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self.own, name)


def test_a_panic_of_the_tokenizer_is_an_error_of_its_question(inference: Inference) -> None:
    frail = Inference(PanickingTokenizer(inference.tokenizer), inference.model, inference.image_processor)
    answers = list(frail.ask([Question("hello"), Question("panic")], options=SHORT, skip_errors=True))
    errors = {answer.index: answer.error for answer in answers}
    assert errors[0] is None
    assert "the tokenizer fails at the prompt" in errors[1] and "index out of bounds" in errors[1]
    with pytest.raises(ValueError, match="the tokenizer fails"):
        frail.ask_one("panic")


def test_beams_are_bounded() -> None:
    for number in (0, 1025, 100_000):
        with pytest.raises(ValueError, match=f"num_beams must be 1 to 1024, got {number}"):
            GenerationOptions(num_beams=number)
