"""Packing and the loss at the targets compute what the padded batch with all its logits computes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AttentionMaskInterface, MistralConfig
from transformers import LlavaNextConfig as HFLlavaNextConfig
from transformers import LlavaNextForConditionalGeneration as HFLlavaNext
from transformers.masking_utils import flash_attention_mask

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model import packing
from llava.model.builder import instantiate
from llava.model.checkpoints.parts import parts_of_checkpoint
from llava.model.image_rules import ImageRules
from llava.model.packing import balanced_rows, pack_samples, packing_layout, varlen_arguments
from llava.model.sdpa_by_sample import attend_by_sample
from llava.model.target_loss import loss_at_targets
from tests.model.tiny import (
    IMAGE_TOKEN,
    PINPOINTS,
    TEXT,
    hf_llava,
    hf_llava_next,
    hf_llava_onevision,
    random_ids,
    random_pixels,
    vision_config,
)

SIZES = [(28, 28), (100, 30), (20, 90), (56, 50), (30, 100)]  # (w, h): for NeXT, tiles of several numbers
IMAGES_PER_SAMPLE = [1, 0, 3, 1, 0]
BESIDE_OTHERS = [False, True, True, True, False]  # each image, in its sample
CASES = [
    ("llava", "visionzip:5+2", "sdpa"),
    ("llava", None, "eager"),
    ("llava_next", "visionzip:5+2", "eager"),
    ("llava_next", None, "sdpa"),
    ("llava", "visionzip:5+2", "sdpa_by_sample"),
    ("llava_next", None, "sdpa_by_sample"),
    ("llava_onevision", "visionzip:5+2", "eager"),
    ("llava_onevision", None, "sdpa_by_sample"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, model in {
        "llava": hf_llava(),
        "llava_next": hf_llava_next(),
        "llava_onevision": hf_llava_onevision(),
    }.items():
        made[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(made[name])
    return made


@pytest.fixture
def load(folders):
    def load(kind, compression, attention):
        parts = parts_of_checkpoint(folders[kind])
        model = instantiate(parts, dtype=torch.float32, attn_implementation={"text_config": attention}).eval()
        model.set_compression(compression)
        return model

    return load


def batch_of(model, perturbed: int | None = None):
    """Five samples with 1, 0, 3, 1 and 0 images; the text of one may be another."""
    rules, rows, images = ImageRules.from_config(model.config), [], []
    for index, count in enumerate(IMAGES_PER_SAMPLE):
        row = random_ids([12, 30, 9, 7, 4][index], seed=index + (100 if index == perturbed else 0))
        row[:count] = IMAGE_TOKEN_INDEX
        rows.append(row.roll(index % 3))  # an image may be the first token
    for number, (size, beside) in enumerate(zip(SIZES, BESIDE_OTHERS, strict=True)):
        images.append(random_pixels(rules.num_tiles(size, beside_others=beside), 3, 28, 28, seed=number))
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    labels = ids.masked_fill((ids == IMAGE_TOKEN_INDEX) | (mask == 0), IGNORE_INDEX)
    labels[1, 5:20] = IGNORE_INDEX
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "images": images, "image_sizes": SIZES}


def lengths_of(model):
    """Tokens of each sample of `batch_of`."""
    rules = ImageRules.from_config(model.config)
    visual = (
        rules.num_tokens(size, model.compression, beside_others=beside)
        for size, beside in zip(SIZES, BESIDE_OTHERS, strict=True)
    )
    return [
        text - images + sum(next(visual) for _ in range(images))
        for text, images in zip([12, 30, 9, 7, 4], IMAGES_PER_SAMPLE, strict=True)
    ]


def loss_and_gradients(model, batch, **options):
    model.zero_grad()
    loss = model(**batch, **options).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal(found, expected, tolerance):
    assert found[0] == pytest.approx(expected[0], abs=tolerance)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("max_length", [None, 25], ids=["one row", "cut, several rows"])
@pytest.mark.parametrize(("kind", "compression", "attention"), CASES)
def test_loss_and_all_gradients_equal_the_padded_batch(load, kind, compression, attention, max_length, monkeypatch):
    if max_length is not None:  # as if attention were dear, which it is for samples longer than these
        monkeypatch.setattr(packing, "_ATTENTION_BALANCE", 1)
    model = load(kind, compression, attention)
    model.config.tokenizer_model_max_length = max_length
    model.model.vision_tower.requires_grad_(False)
    batch = batch_of(model)
    expected = loss_and_gradients(model, batch)
    assert {"lm_head.weight", "model.language_model.embed_tokens.weight"} < expected[1].keys()
    assert_equal(loss_and_gradients(model, batch, loss_only=True), expected, 1e-6)
    assert_equal(loss_and_gradients(model, batch, packing=True), expected, 1e-5)
    assert_equal(loss_and_gradients(model, batch, packing=True, loss_only=True), expected, 1e-5)
    with torch.no_grad():
        rows, width = model(**batch, packing=True).logits.shape[:2]
    lengths = [min(length, max_length or length) for length in lengths_of(model)]
    if max_length is None or attention == "sdpa_by_sample":
        assert (rows, width) == (1, sum(lengths))
    else:
        assert rows > 1 and rows * width > sum(lengths)  # padding at the end of a row is there too


@pytest.mark.parametrize("attention", ["sdpa", "sdpa_by_sample"])
def test_projector_gradients_with_gradient_checkpointing(load, attention):
    model = load("llava", "visionzip:5+2", attention)
    model.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(True)
    batch = batch_of(model)
    expected = loss_and_gradients(model, batch, num_items_in_batch=100)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert model.model.language_model.gradient_checkpointing
    found = loss_and_gradients(model, batch, num_items_in_batch=torch.tensor(100), packing=True, loss_only=True)
    assert_equal(found, expected, 1e-5)


@pytest.mark.parametrize("index", [0, 1, 4])
def test_samples_do_not_see_each_other(load, index):
    """Another text in one sample moves nothing that is learned from the others, wherever it lies."""
    model = load("llava", "visionzip:5+2", "sdpa")
    one, other = batch_of(model), batch_of(model, perturbed=index)
    for batch in (one, other):
        batch["labels"][index] = IGNORE_INDEX
    found, expected = (loss_and_gradients(model, batch, packing=True) for batch in (other, one))
    assert_equal(found, expected, 1e-6)
    other["labels"] = batch_of(model, perturbed=index)["labels"]
    assert abs(loss_and_gradients(model, other, packing=True)[0] - expected[0]) > 1e-3


def test_places_without_padding(load):
    """What packing is for: fewer places are computed than in the padded batch."""
    model = load("llava", "visionzip:5+2", "sdpa")
    batch = batch_of(model)
    with torch.no_grad():
        padded, packed = model(**batch).logits, model(**batch, packing=True).logits
    assert padded.shape[:2] == (5, 30) and packed.shape[:2] == (1, 92)  # of 18 + 30 + 27 + 13 + 4 tokens


def test_a_kernel_for_various_lengths_is_told_where_samples_end(load):
    """Flash attention's calling convention, by a kernel in plain torch: one row, and the bounds of its samples."""
    calls = []

    def varlen(module, query, key, value, attention_mask, scaling=None, **given):
        calls.append(given["cu_seq_lens_q"].tolist())
        assert attention_mask is None and query.shape[0] == 1 and given["cu_seq_lens_k"].dtype == torch.int32
        assert given["max_length_q"] == given["max_length_k"] == given["cu_seq_lens_q"].diff().max()
        key, value = (x.repeat_interleave(module.num_key_value_groups, dim=1) for x in (key, value))
        sizes = given["cu_seq_lens_q"].diff().tolist()
        parts = zip(*(x.split(sizes, dim=2) for x in (query, key, value)), strict=True)
        attend = torch.nn.functional.scaled_dot_product_attention
        return torch.cat([attend(*part, is_causal=True, scale=scaling) for part in parts], 2).transpose(1, 2), None

    AttentionInterface.register("reference_flash", varlen)
    AttentionMaskInterface.register("reference_flash", flash_attention_mask)
    model = load("llava", "visionzip:5+2", "sdpa")
    model.model.vision_tower.requires_grad_(False)
    batch = batch_of(model)
    expected = loss_and_gradients(model, batch)
    model.model.language_model.config._attn_implementation = "reference_flash"
    assert_equal(loss_and_gradients(model, batch, packing=True, loss_only=True), expected, 1e-5)
    assert calls[0] == [0, 18, 48, 75, 88, 92]


def test_attention_by_sample_computes_no_pair_of_two_samples(load, tmp_path):
    """Lengths of the queries that PyTorch's attention is called with, layer by layer; one row, no mask."""
    model = load("llava", "visionzip:5+2", "sdpa")
    attend_by_sample(model)
    assert model.model.language_model.config._attn_implementation == "sdpa_by_sample"
    assert model.model.vision_tower.config._attn_implementation == "sdpa"
    batch = batch_of(model)
    seen = []

    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "scaled_dot_product" in func.__name__ and args[0].shape[1] == 4:  # heads of the language model
                seen.append(args[0].shape[2])
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Calls():
        model(**batch, packing=True)
    assert seen == 2 * [18, 30, 27, 13, 4]
    model.save_pretrained(tmp_path)
    assert "by_sample" not in (tmp_path / "config.json").read_text()


def test_attention_by_sample_is_pytorchs_where_nothing_is_packed(load):
    """Padded batches, answers with a cache that grows and one of fixed size."""
    model = load("llava", "visionzip:5+2", "sdpa")
    batch = {name: value for name, value in batch_of(model).items() if name != "labels"}
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}

    def outputs():
        answers = [model.generate(**batch, **options, cache_implementation=cache) for cache in (None, "static")]
        return torch.stack(answers), model(**batch).logits

    with torch.no_grad():
        expected = outputs()
        attend_by_sample(model)
        torch.testing.assert_close(outputs(), expected, rtol=0, atol=0)


def test_attention_by_sample_refuses_samples_whose_lengths_it_is_not_told(load):
    """Rows that are one sample need none; the lengths, where they are given, make what PyTorch's block mask makes."""
    model = load("llava", None, "sdpa")
    ids, whole = random_ids(1, 9), torch.arange(9).unsqueeze(0)
    packed = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])

    def logits(position_ids, **options):
        return model(input_ids=ids, position_ids=position_ids, use_cache=False, **options).logits

    with torch.no_grad():
        expected = [logits(packed), logits(whole), logits(None)]
        attend_by_sample(model)
        with pytest.raises(ValueError, match=r"sample_lengths is missing: pass packing=True"):
            logits(packed)
        found = [logits(packed, **varlen_arguments(packed, "sdpa_by_sample")), logits(whole), logits(None)]
        torch.testing.assert_close(found, expected)


@pytest.mark.slow
def test_attention_by_sample_refuses_samples_that_are_longer_than_a_window(tmp_path):
    """It computed the whole sample; a model that is asked to use it, in training, is left with PyTorch's then."""
    torch.manual_seed(0)
    config = HFLlavaNextConfig(
        vision_config=vision_config(),
        text_config=MistralConfig(**TEXT, sliding_window=8),
        image_token_index=IMAGE_TOKEN,
        image_grid_pinpoints=PINPOINTS,
    )
    HFLlavaNext(config).save_pretrained(tmp_path)
    parts = parts_of_checkpoint(tmp_path)
    model = instantiate(parts, dtype=torch.float32, attn_implementation={"text_config": "sdpa_by_sample"})
    with pytest.raises(ValueError, match=r"a sample of \d+ tokens is longer than sliding_window 8"):
        model(**batch_of(model), packing=True)
    model.set_attn_implementation({"text_config": "sdpa"})
    attend_by_sample(model)
    assert model.model.language_model.config._attn_implementation == "sdpa"


def test_attention_by_sample_masks_while_a_graph_is_traced(load):
    """There transformers takes every row for packed, and nothing can be told by its positions."""
    model = load("llava", None, "sdpa_by_sample")
    ids = random_ids(1, 9)
    for positions in (torch.arange(9), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4])):
        model.set_attn_implementation({"text_config": "sdpa"})
        options = {"input_ids": ids, "position_ids": positions.unsqueeze(0), "use_cache": False}
        with torch.no_grad():
            expected = model(**options).logits
            model.set_attn_implementation({"text_config": "sdpa_by_sample"})
            torch._dynamo.reset()
            found = torch.compile(lambda: model(**options).logits, backend="eager")()  # noqa: B023
        torch.testing.assert_close(found, expected)


def test_another_attention_is_left_as_it_is(load):
    for name in ("eager", "sdpa"):
        model = load("llava_next", None, name)
        model.model.language_model.config.sliding_window = 8
        attend_by_sample(model)
        assert model.model.language_model.config._attn_implementation == name


@pytest.mark.gpu
def test_flash_attention_equals_the_block_mask(load):
    pytest.importorskip("flash_attn")
    model = load("llava", "visionzip:5+2", "sdpa").to("cuda", torch.bfloat16)
    batch = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in batch_of(model).items()}
    expected = model(**batch, packing=True, loss_only=True).loss
    model.set_attn_implementation({"text_config": "flash_attention_2"})
    torch.testing.assert_close(model(**batch, packing=True, loss_only=True).loss, expected, atol=2e-2, rtol=0)


def test_a_batch_without_images_or_targets(load):
    model = load("llava", "visionzip:5+2", "sdpa")
    batch = {"input_ids": random_ids(1, 6), "labels": random_ids(1, 6)}
    assert_equal(loss_and_gradients(model, batch, packing=True, loss_only=True), loss_and_gradients(model, batch), 1e-6)
    batch["labels"] = torch.full_like(batch["labels"], IGNORE_INDEX)
    loss, gradients = loss_and_gradients(model, batch, loss_only=True, packing=True, num_items_in_batch=1)
    assert loss == 0 and not gradients["lm_head.weight"].any()


def test_no_logits_but_those_of_targets():
    """The head sees the hidden states before targets, of samples and not of what stands before them."""
    labels = torch.full((2, 6), IGNORE_INDEX)
    labels[0, 2:4], labels[1, 0] = 7, 7  # nothing predicts a first token
    hidden, rows = torch.randn(2, 6, 5), []
    head = torch.nn.Linear(5, 9)
    head.register_forward_hook(lambda _module, inputs, _output: rows.append(inputs[0]))
    loss = loss_at_targets(hidden, head, labels)
    torch.testing.assert_close(rows[0], hidden[0, 1:3])
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(head(hidden[0, 1:3]), labels[0, 2:4]))


def test_rows():
    assert balanced_rows([3, 9, 5, 4], 2) == ([0, 0, 1, 1], [9, 0, 0, 5], [12, 9])
    one = pack_samples(torch.tensor([3, 9, 5, 4]), "single_row")
    assert one.offset.tolist() == [0, 3, 12, 17] and one.width == 21 and one.row.tolist() == [0, 0, 0, 0]
    many = pack_samples(torch.tensor([2000] * 16), "rows")  # attention over all of them would cost more than padding
    assert many.width == 2000 and len(many.filled) == 16
    sizes = torch.randint(40, 2048, (32,), generator=torch.Generator().manual_seed(0))
    rows = pack_samples(sizes, "rows")
    taken = sorted(
        (*where, size) for *where, size in zip(rows.row.tolist(), rows.offset.tolist(), sizes.tolist(), strict=True)
    )
    for (row, start, size), (next_row, next_start, _) in itertools.pairwise(taken):
        assert (next_row, next_start) in {(row, start + size), (row + 1, 0)}  # end to end, none over another
    assert rows.width * len(rows.filled) < 1.1 * int(sizes.sum())


def test_layouts():
    assert packing_layout("flash_attention_2") == "single_row" and packing_layout("sdpa") == "rows"
    with pytest.raises(ValueError, match="paged"):
        packing_layout("paged|sdpa")
