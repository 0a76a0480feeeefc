"""What vLLM's transformers backend (0.33) asks of a processor and a model, call by call; vLLM itself is not here.

The calls are those of `vllm/model_executor/models/transformers/multimodal.py`: `_get_num_mm_tokens`,
`_apply_hf_processor_main`, `_get_prompt_updates`, `_get_num_image_patches`, `_process_vision_input`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor

from llava.model.auto import AutoLlava, AutoLlavaProcessor
from tests.model.folders import KINDS, image, save_transformers_folder

BUDGET = "visionzip:5+2"
PICTURES = ("landscape", "portrait")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {kind: save_transformers_folder(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_places_are_those_of_transformers_own_processor(kind, folders):
    """Uncompressed, entry by entry, as plain transformers says them."""
    ours = AutoLlavaProcessor.from_pretrained(folders[kind])
    theirs = AutoProcessor.from_pretrained(folders[kind], backend="pil")
    texts = ["<image>\nWhat is it?", "Is <image> beside <image>?"]
    images = [image("landscape"), image("portrait"), image("small")]
    options = {"return_text_replacement_offsets": True, "padding": True, "return_tensors": "pt"}
    got, expected = (each(text=list(texts), images=images, **options) for each in (ours, theirs))
    assert got["text_replacement_offsets"] == expected["text_replacement_offsets"]
    assert [len(entries) for entries in got["text_replacement_offsets"]] == [1, 2]
    assert torch.equal(got["input_ids"], expected["input_ids"])
    nested = ours(text=texts, images=images, text_kwargs={"return_text_replacement_offsets": True}, padding=True)
    assert nested["text_replacement_offsets"] == expected["text_replacement_offsets"]
    assert "text_replacement_offsets" not in ours(text=texts, images=images, padding=True)
    assert ours(text="No image.", return_text_replacement_offsets=True)["text_replacement_offsets"] == [[]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_backends_calls_end_in_our_own_logits(kind, folders):
    """From a prompt with one token an image to the language model's input, as vLLM makes it of the answers."""
    processor = AutoLlavaProcessor.from_pretrained(folders[kind], compression=BUDGET)
    model = AutoLlava.from_pretrained(folders[kind], compression=BUDGET, dtype=torch.float32).eval()
    pictures = [image(name) for name in PICTURES]
    tokenizer, token = processor.tokenizer, model.config.image_token_id
    # Profiling: the most tokens that an image can take, of a very large one.
    most = processor._get_num_multimodal_tokens(image_sizes=([10_000, 10_000],))["num_image_tokens"][0]
    # The processor sees dummy text and the images, and is asked where they go.
    found = processor(text="<image>" * 2, images=pictures, return_text_replacement_offsets=True, return_tensors="pt")
    offsets = found.pop("text_replacement_offsets")
    replaced = [tokenizer.encode(entry["replacement"], add_special_tokens=False) for entry in offsets[0]]
    assert [entry["type"] for entry in offsets[0]] == ["image", "image"]
    assert all(set(ids) == {token} and len(ids) <= most for ids in replaced)
    assert tokenizer.encode(processor.image_token, add_special_tokens=False) == [token]
    # What the model is given belongs to images one by one.
    sizes = [(picture.height, picture.width) for picture in pictures]
    patches = processor._get_num_multimodal_tokens(image_sizes=sizes)["num_image_patches"]
    found.pop("attention_mask"), found.pop("input_ids")
    assert all(len(values) == sum(patches) for values in found.values())
    # The prompt, tokenised by itself, gets each replacement in the place of its token.
    prompt = "USER: <image>\n<image>\nWhich? ASSISTANT:"
    left = iter(replaced)
    ids = [new for each in tokenizer(prompt).input_ids for new in (next(left) if each == token else [each])]
    with torch.no_grad():
        rows = model.model.get_image_features(**found).pooler_output
        assert [len(each) for each in rows] == [len(each) for each in replaced]
        embeds = model.get_input_embeddings()(torch.tensor(ids).where(torch.tensor(ids) != token, 0))
        embeds[torch.tensor(ids) == token] = torch.cat(list(rows))
        got = model.lm_head(model.model.language_model(inputs_embeds=embeds[None]).last_hidden_state)
        inputs = processor(text=prompt, images=pictures, return_tensors="pt")
        assert inputs["input_ids"].tolist() == [ids]
        assert torch.equal(got, model(**inputs).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_what_the_backend_expects(kind, folders):
    """It is made on the meta device of its config, its parts are found, and its embedding is replaced."""
    loaded = AutoLlava.from_pretrained(folders[kind], compression=BUDGET)
    assert type(loaded).is_backend_compatible()
    with torch.device("meta"):
        base = type(loaded).base_model_class(loaded.config)
    assert type(base.get_decoder()).__name__ == "LlamaModel"
    assert base.get_encoder(modality="image") is not base
    another = torch.nn.Embedding(519, 64, device="meta")
    base.set_input_embeddings(another)
    assert base.get_input_embeddings() is another


def test_a_tokenizer_without_an_image_token_is_told_to_be_exported(oracle_dir):
    processor = AutoLlavaProcessor.from_pretrained(oracle_dir / "tiny-llava-v1.5")
    with pytest.raises(ValueError, match=r"'<image>' is no token of this tokenizer.*llava export --to hf"):
        processor(text="<image>", images=[image()], return_text_replacement_offsets=True)
