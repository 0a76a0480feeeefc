"""A batch gives, sample by sample, what batch 1 gives: any padding side, any number of images, any lengths."""

from __future__ import annotations

import re

import pytest
import torch

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model.builder import instantiate
from llava.model.checkpoints.parts import parts_of_checkpoint
from tests.model.tiny import hf_llava, hf_llava_next, random_ids, random_pixels

COMPRESSIONS = [None, "visionzip:5+2", "random:6", "uniform:3"]
IMAGES_PER_SAMPLE = [1, 0, 2, 1]
SIZES = [(50, 40), (90, 20), (28, 28), (30, 80)]


@pytest.fixture(scope="module", params=["llava", "llava_next"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    (hf_llava() if request.param == "llava" else hf_llava_next()).save_pretrained(folder)
    return instantiate(parts_of_checkpoint(folder), dtype=torch.float32).eval()


def samples(model):
    """(ids, images, sizes) of four prompts with 1, 0, 2 and 1 images."""
    from llava.model.anyres import TileLayout

    layout, made, image = TileLayout.from_config(model.config), [], 0
    for index, count in enumerate(IMAGES_PER_SAMPLE):
        ids = random_ids(5 + 3 * index, seed=index)
        sizes = SIZES[image : image + count]
        for place in range(count):
            ids[1 + 2 * place] = IMAGE_TOKEN_INDEX
        images = [random_pixels(layout.num_tiles(size), 3, 28, 28, seed=image + n) for n, size in enumerate(sizes)]
        made.append((ids, images, sizes))
        image += count
    return made


def padded(rows: list[torch.Tensor], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0, padding_side=side)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
    return ids, mask


def test_a_prompt_of_nothing_but_an_image(model):
    """One id long, as a decoding step is, which has no use for images."""
    model.set_compression(None)
    ids, images, sizes = samples(model)[0]
    given = {"images": images, "image_sizes": sizes}
    with torch.no_grad():
        alone = model(input_ids=torch.tensor([[IMAGE_TOKEN_INDEX]]), **given).logits
        followed = model(input_ids=torch.tensor([[IMAGE_TOKEN_INDEX, int(ids[0])]]), **given).logits
    torch.testing.assert_close(alone, followed[:, :-1], atol=1e-5, rtol=1e-5)
    assert alone.shape[1] > 1


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("compression", COMPRESSIONS, ids=str)
def test_generated_ids_equal_batch_one(model, compression, side):
    model.set_compression(compression)
    made = samples(model)
    options = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": 0, "eos_token_id": None}
    alone = [
        model.generate(ids[None], images=images or None, image_sizes=sizes or None, **options)[0].tolist()
        for ids, images, sizes in made
    ]
    ids, mask = padded([row for row, _, _ in made], side)
    images = [image for _, own, _ in made for image in own]
    sizes = [size for _, _, own in made for size in own]
    together = model.generate(ids, attention_mask=mask, images=images, image_sizes=sizes, **options)
    assert together.tolist() == alone
    features = model.encode_images(images, sizes)
    again = model.generate(ids, attention_mask=mask, image_features=features, **options)
    assert again.tolist() == alone
    assert [len(feature) for feature in features] == model.num_visual_tokens(sizes)


@pytest.mark.parametrize("side", ["left", "right"])
def test_mixed_batches_are_the_same_under_every_attention(model, side):
    model.set_compression("visionzip:5+2")
    made = samples(model)
    ids, mask = padded([row for row, _, _ in made], side)
    images, sizes = [one for _, own, _ in made for one in own], [one for _, _, own in made for one in own]
    options = {"images": images, "image_sizes": sizes, "do_sample": False, "max_new_tokens": 6, "pad_token_id": 0}
    answers = []
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        answers.append(model.generate(ids, attention_mask=mask, eos_token_id=None, **options).tolist())
    assert answers[0] == answers[1]


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_and_loss_equal_batch_one(model, side):
    model.set_compression("visionzip:5+2")
    made = samples(model)
    ids, mask = padded([row for row, _, _ in made], side)
    labels = ids.masked_fill((mask == 0) | (ids == IMAGE_TOKEN_INDEX), IGNORE_INDEX)
    images = [image for _, own, _ in made for image in own]
    sizes = [size for _, _, own in made for size in own]
    with torch.no_grad():
        together = model(ids, attention_mask=mask, labels=labels, images=images, image_sizes=sizes)
        losses, targets = [], []
        for index, (row, own, own_sizes) in enumerate(made):
            single_labels = labels[index][mask[index].bool()][None]
            single = model(row[None], labels=single_labels, images=own or None, image_sizes=own_sizes or None)
            length = single.logits.shape[1]
            batch_row = together.logits[index]
            batch_row = batch_row[-length:] if side == "left" else batch_row[:length]
            torch.testing.assert_close(batch_row, single.logits[0], atol=2e-5, rtol=1e-4)
            targets.append(int((single_labels[:, 1:] != IGNORE_INDEX).sum()))
            losses.append(float(single.loss) * targets[-1])
    assert float(together.loss) == pytest.approx(sum(losses) / sum(targets), rel=1e-4)


def test_dummy_images_of_text_only_samples_are_left_out(model):
    """LLaVA's collator gives a text-only sample a dummy image, which no placeholder takes."""
    model.set_compression(None)
    made = samples(model)
    ids, mask = padded([row for row, _, _ in made], "right")
    real = [image for _, own, _ in made for image in own]
    sizes = [size for _, _, own in made for size in own]
    dummy = torch.zeros(1, 3, 28, 28)
    with torch.no_grad():
        expected = model(ids, attention_mask=mask, images=real, image_sizes=sizes).logits
        with_dummy = model(
            ids,
            attention_mask=mask,
            images=[real[0], dummy, *real[1:]],
            image_sizes=[sizes[0], (28, 28), *sizes[1:]],
        ).logits
    assert torch.equal(with_dummy, expected)


@pytest.mark.parametrize("count", [0, 1, 3, 9])
def test_a_wrong_number_of_images_is_named(model, count):
    ids = torch.tensor([[1, IMAGE_TOKEN_INDEX, 5, IMAGE_TOKEN_INDEX, 6]])
    with pytest.raises(ValueError, match=rf"2 image placeholders.*but {count} images"):
        model(ids, images=[random_pixels(1, 3, 28, 28)] * count if count else None)


def test_a_long_sample_is_cut_as_the_reference_does(model, caplog):
    """`tokenizer_model_max_length` cuts on the right, in the middle of an image too, and other samples stay whole."""
    model.set_compression(None)
    made = samples(model)
    ids, mask = padded([row for row, _, _ in made], "right")
    images = [image for _, own, _ in made for image in own]
    sizes = [size for _, _, own in made for size in own]
    with torch.no_grad():
        whole = model(ids, attention_mask=mask, images=images, image_sizes=sizes).logits
        model.config.tokenizer_model_max_length = 12
        try:
            cut = model(ids, attention_mask=mask, images=images, image_sizes=sizes).logits
        finally:
            del model.config.tokenizer_model_max_length
    assert cut.shape[1] == 12
    torch.testing.assert_close(cut[0], whole[0, :12], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(cut[3], whole[3, :12], atol=2e-5, rtol=1e-4)
    assert "cut to the 12 tokens" in caplog.text and re.search(r"last \d+ tokens are not seen", caplog.text)


def test_a_hand_written_decoding_loop(model):
    """LLaVA's own loops pass `images=` at every step; the steps after the first take no notice of them."""
    model.set_compression("visionzip:5+2")
    ids, images, sizes = samples(model)[0]
    expected = model.generate(
        ids[None], images=images, image_sizes=sizes, do_sample=False, max_new_tokens=4, eos_token_id=None
    )
    with torch.no_grad():
        out = model(ids[None], images=images, image_sizes=sizes, use_cache=True)
        new = [out.logits[:, -1:].argmax(-1)]
        for _ in range(3):
            out = model(new[-1], images=images, image_sizes=sizes, past_key_values=out.past_key_values)
            new.append(out.logits[:, -1:].argmax(-1))
    assert torch.equal(torch.cat(new, dim=1), expected)
    with pytest.raises(ValueError, match="the cache holds tokens already"):
        model(ids[None], images=images, image_sizes=sizes, past_key_values=out.past_key_values)
    with pytest.raises(ValueError, match="not both"):
        model(ids[None], images=images, image_sizes=sizes, pixel_values=images[0])


def test_an_image_without_a_placeholder_is_told(model, caplog):
    _, images, sizes = samples(model)[0]
    model.generate(torch.tensor([[1, 5, 6]]), images=images, image_sizes=sizes, max_new_tokens=1, do_sample=False)
    assert "the prompt has no <image>" in caplog.text


def test_beams_and_sampling_run(model):
    model.set_compression("visionzip:5+2")
    ids, images, sizes = samples(model)[0]
    beams = model.generate(ids[None], images=images, image_sizes=sizes, num_beams=2, max_new_tokens=4, do_sample=False)
    assert beams.shape[1] <= 4
    torch.manual_seed(0)
    drawn = model.generate(ids[None], images=images, image_sizes=sizes, do_sample=True, max_new_tokens=4)
    assert drawn.shape[1] <= 4


def test_a_second_turn_with_the_kept_cache_equals_a_fresh_run(model):
    model.set_compression("visionzip:5+2")
    ids, images, sizes = samples(model)[0]
    features = model.encode_images(images, sizes)
    options = {"do_sample": False, "max_new_tokens": 5, "eos_token_id": None, "pad_token_id": 0}
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config.text_config)
    first = model.generate(ids[None], image_features=features, past_key_values=cache, **options)
    both = torch.cat([ids[None], first, random_ids(1, 4, seed=9)], dim=1)
    kept = cache.get_seq_length()
    second = model.generate(both, image_features=features, past_key_values=cache, **options)
    assert kept > 0 and cache.get_seq_length() > kept
    assert torch.equal(second, model.generate(both, images=images, image_sizes=sizes, **options))
