"""Placeholders among the ids, stopping at keywords, and names, as LLaVA programs use them."""

import base64
import json
from pathlib import Path

import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import llava.mm_utils
from llava.constants import IMAGE_TOKEN_INDEX
from llava.images.processing import ImageDecodeError
from llava.mm_utils import (
    KeywordsStoppingCriteria,
    get_model_name_from_path,
    load_image_from_base64,
    tokenizer_image_token,
)
from llava.prompts.tokenization import load_tokenizer

ORACLE = Path(__file__).parent / "fixtures" / "oracle"
CASES = json.loads((ORACLE / "misc.json").read_text())["tokenizer_image_token"]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(ORACLE / "tiny-llava-v1.5")


@pytest.fixture(scope="module")
def without_bos():
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "cat": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_the_names_that_llava_programs_import():
    expected = (
        "KeywordsStoppingCriteria divide_to_patches expand2square get_anyres_image_grid_shape get_model_name_from_path "
        "load_image_from_base64 process_anyres_image process_images resize_and_pad_image select_best_resolution "
        "tokenizer_image_token"
    )
    assert all(callable(getattr(llava.mm_utils, name)) for name in expected.split())


@pytest.mark.parametrize(("prompt", "expected"), CASES.items())
def test_ids_equal_llavas(prompt, expected, tokenizer):
    assert tokenizer_image_token(prompt, tokenizer) == expected
    tensor = tokenizer_image_token(prompt, tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt")
    assert tensor.dtype == torch.long
    assert tensor.tolist() == expected


@settings(deadline=None)
@given(chunks=st.lists(st.text(alphabet="a cat\n<image>", max_size=12), min_size=1, max_size=5))
def test_every_placeholder_becomes_one_id_and_one_bos_is_kept(tokenizer, chunks):
    prompt = "<image>".join(chunks)
    chunks = prompt.split("<image>")  # a chunk, or two, may spell one as well
    ids = tokenizer_image_token(prompt, tokenizer, image_token_index=-7)
    assert ids.count(-7) == len(chunks) - 1
    assert ids.count(tokenizer.bos_token_id) == 1
    texts = [token for chunk in chunks for token in tokenizer(chunk).input_ids[1:]]
    assert [token for token in ids[1:] if token != -7] == texts


def test_a_tokenizer_without_bos_loses_nothing(without_bos):
    assert tokenizer_image_token("<image> a <image> cat", without_bos) == [-200, 1, -200, 2]
    assert tokenizer_image_token("a cat", without_bos) == [1, 2]


def test_only_torch_tensors(tokenizer):
    with pytest.raises(ValueError, match="'np'"):
        tokenizer_image_token("a", tokenizer, return_tensors="np")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("liuhaotian/llava-v1.5-7b", "llava-v1.5-7b"),
        ("/data/llava-v1.5-7b/", "llava-v1.5-7b"),
        ("/data/llava-lora/checkpoint-500", "llava-lora_checkpoint-500"),
        ("llava", "llava"),
        ("checkpoint-500", "checkpoint-500"),
    ],
)
def test_model_names(path, name):
    assert get_model_name_from_path(path) == name


def test_an_image_in_base64():
    data = (ORACLE / "images" / "small.png").read_bytes()
    image = load_image_from_base64(base64.b64encode(data).decode())
    assert (image.mode, image.size) == ("RGB", (90, 60))
    assert isinstance(image, PIL.Image.Image)
    with pytest.raises(ImageDecodeError):
        load_image_from_base64(base64.b64encode(b"nothing"))


# Stopping


def ids_of(tokenizer, *texts: str) -> torch.Tensor:
    """One row a text, BOS left out; the texts must have equally many tokens."""
    return torch.tensor([tokenizer(text, add_special_tokens=False).input_ids for text in texts])


def test_it_stops_when_the_keyword_is_there(tokenizer):
    prompt = ids_of(tokenizer, "what?### Assistant:")
    criterion = KeywordsStoppingCriteria(["###"], tokenizer, prompt)
    answer = ids_of(tokenizer, "a cat###")
    stops = [bool(criterion(answer[:, :length], None)) for length in range(1, answer.shape[1] + 1)]
    assert stops == [False] * (len(stops) - 1) + [True]


def test_the_prompt_is_not_searched(tokenizer):
    prompt = ids_of(tokenizer, "what?###")
    criterion = KeywordsStoppingCriteria(["###"], tokenizer, prompt)
    answer = ids_of(tokenizer, "a cat###")
    whole = torch.cat([prompt, answer], dim=1)
    for new in range(answer.shape[1]):
        assert not criterion(whole[:, : prompt.shape[1] + new], None).any()
    assert criterion(whole, None).all()


def test_special_tokens_are_keywords_too(tokenizer):
    criterion = KeywordsStoppingCriteria(["</s>"], tokenizer, torch.zeros(1, 3, dtype=torch.long))
    assert not criterion(ids_of(tokenizer, "a cat"), None)
    assert criterion(ids_of(tokenizer, "a cat</s>"), None)


def test_each_row_is_judged_by_itself(tokenizer):
    rows = [ids_of(tokenizer, text)[0] for text in ("a cat###", "the dog sleeps")]
    length = min(map(len, rows))
    criterion = KeywordsStoppingCriteria(["###"], tokenizer, torch.zeros(2, 3, dtype=torch.long))
    done = criterion(torch.stack([row[-length:] for row in rows]), None)
    assert (done.dtype, done.tolist()) == (torch.bool, [True, False])


def test_no_keyword_never_stops(tokenizer):
    assert not KeywordsStoppingCriteria([], tokenizer, torch.zeros(1, 1))(ids_of(tokenizer, "a cat"), None)


@pytest.mark.parametrize("from_embeddings", [False, True], ids=["from_ids", "from_embeddings"])
def test_generate_stops_at_the_keyword(tokenizer, from_embeddings):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=700, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        eos_token_id=None, bos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    prompt = ids_of(tokenizer, "what is this?")
    inputs = {"inputs_embeds": model.get_input_embeddings()(prompt)} if from_embeddings else {"inputs": prompt}
    start = 0 if from_embeddings else prompt.shape[1]
    free = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, start:].tolist()
    keyword = tokenizer.decode(free[5])
    texts = [tokenizer.decode(free[: length + 1]) for length in range(len(free))]
    end = next(i for i, text in enumerate(texts) if keyword in text)  # the keyword may come by chance before
    stop = KeywordsStoppingCriteria([keyword], tokenizer, prompt)
    stopped = model.generate(**inputs, max_new_tokens=12, do_sample=False, stopping_criteria=[stop])[0, start:]
    assert stopped.tolist() == free[: end + 1]
