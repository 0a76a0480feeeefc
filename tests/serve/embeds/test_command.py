"""`llava embeds`: what a user types, and the file that comes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from llava.serve.embeds.command import main
from llava.serve.embeds.forms import FORMS
from llava.store.command import main as store_main
from tests.serve.embeds.conftest import BUDGET, IMAGES, LANDSCAPE, MODEL, PORTRAIT, ROWS, TEXT, own_logits
from tests.serve.embeds.test_vllm import read

ASKED = ["--model-path", str(MODEL), "--device", "cpu", "--compression", BUDGET, "--query", TEXT]


def written(path: Path) -> tuple[dict, dict]:
    """Tensors and header of a file, as a program without this package reads them."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["question"])  # noqa: SIM118


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_every_form_is_written(form, tmp_path, ask, inference, capsys):
    output = tmp_path / "out"
    assert main([*ASKED, "--for", form.name, "--image-file", str(LANDSCAPE), "--output", str(output)]) == 0
    assert f"{output}: {form.name}, {ROWS} rows of 128 in float32" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [output]
    question = ask()
    if form.is_request:
        body = json.loads(output.read_text())
        assert body["model"] == "model" and body["max_tokens"] == 512 and body["temperature"] == 0
        if form.name == "vllm-image-embeds":
            image, text = body["messages"][0]["content"]
            assert torch.equal(read(image["image_embeds"]), question.features[0]) and text["text"] == TEXT
        else:
            assert len(read(body["prompt_embeds"])) == len(question.opened_ids())
        return
    tensors, header = written(output)
    if form.name == "transformers-inputs-embeds":
        assert tensors["inputs_embeds"].shape == (1, len(question.opened_ids()), 128)
        return
    assert torch.equal(tensors["image_0"], question.features[0])
    if form.name == "vllm-offline":
        assert header["prompt_token_ids"].count(518) == 1
    elif form.name == "transformers":
        assert header["input_ids"] == question.opened_ids()
    else:
        (begin, end), ids = header["input_embedding_ranges"][0], header["input_ids"]
        assert end - begin == ROWS and set(ids[begin:end]) == {0}


def test_a_store_serves_without_weights(tmp_path, capsys):
    store, small = tmp_path / "store", tmp_path / "small"
    built = ["build", "--model-path", str(MODEL), "--device", "cpu", "--compression", BUDGET]
    assert store_main([*built, "--images", str(IMAGES), "--output", str(store)]) == 0
    shutil.copytree(MODEL, small, ignore=shutil.ignore_patterns("*.safetensors"))
    words = ["--model-path", str(small), "--image-store", str(store), "--query", TEXT]
    words += ["--image-file", str(LANDSCAPE), str(PORTRAIT), "--embed-dtype", "float16", "--output", "-"]
    capsys.readouterr()
    assert main([*words, "--model-name", "llava", "--max-new-tokens", "5"]) == 0
    said = capsys.readouterr()
    body = json.loads(said.out)
    assert (body["model"], body["max_tokens"]) == ("llava", 5)
    assert [part["type"] for part in body["messages"][0]["content"]] == ["image_embeds", "image_embeds", "text"]
    assert "49 + 49 rows of 128 in float16" in said.err and "all clients of a server: 49" in said.err
    with pytest.raises(SystemExit, match=r"error: .*no weights"):
        main([*words, "--for", "vllm-prompt-embeds"])  # the text's embeddings are in the weights
    with pytest.raises(SystemExit, match="one store; name one"):
        main([*words, "--image-store", str(store)])


def test_a_template_of_ones_own_is_told_not_to_reach_the_server(tmp_path, capsys):
    words = [*ASKED, "--image-file", str(LANDSCAPE), "--output", str(tmp_path / "out"), "--conv-mode", "v0"]
    assert main(words) == 0
    assert "the server's chat template makes the prompt, not --conv-mode" in capsys.readouterr().err
    assert main([*words, "--for", "vllm-prompt-embeds"]) == 0
    assert "note" not in capsys.readouterr().err
    assert json.loads((tmp_path / "out").read_text())["stop"] == ["###"]


def test_the_language_model_alone_answers_a_prompt(tmp_path, inference):
    from transformers import AutoModelForCausalLM

    folder, output = tmp_path / "language-model", tmp_path / "request.json"
    words = [*ASKED, "--for", "vllm-prompt-embeds", "--image-file", str(LANDSCAPE), "--output", str(output)]
    assert main([*words, "--text-model", str(folder)]) == 0
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = read(json.loads(output.read_text())["prompt_embeds"])
    with torch.no_grad():
        assert torch.equal(model(inputs_embeds=rows[None]).logits, own_logits(inference, TEXT, LANDSCAPE))
    assert main(["--model-path", str(MODEL), "--device", "cpu", "--text-model", str(tmp_path / "alone")]) == 0
    assert (tmp_path / "alone" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--query", TEXT], "needs --image-file, --output"),
        ([], "needs --image-file, --query, --output"),
        (
            ["--query", TEXT, "--image-file", "a.png", "--output", "-", "--for", "lmdeploy"],
            "--for lmdeploy is a file of tensors",
        ),
        (
            ["--query", TEXT, "--image-file", "a.png", "--output", "-", "--text-model", "x"],
            "--output - is for a request alone",
        ),
        (["--query", TEXT, "--image-file", "a.png", "--output", "x", "--for", "sglang"], "invalid choice: 'sglang'"),
    ],
)
def test_wrong_flags_end_with_status_2(words, status, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--model-path", str(MODEL), *words])
    assert end.value.code == 2 and status in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image-file", "none.png"], "error: .*none.png"),
        (["--image-file", str(LANDSCAPE), "--embed-dtype", "bfloat16"], "error: npy has no bfloat16"),
        (["--image-file", str(LANDSCAPE), "--temperature", "-1"], "error: temperature must be 0"),
        (["--image-file", str(LANDSCAPE), "--output", f"{LANDSCAPE}/x"], r"error: .*landscape.png"),
    ],
)
def test_errors_are_one_line(words, message, tmp_path):
    with pytest.raises(SystemExit, match=message) as end:
        main([*ASKED, "--output", str(tmp_path / "out"), *words])
    assert "\n" not in str(end.value.code)
    assert not (tmp_path / "out").exists()
