"""A whole model with `positions=restore`: any batch answers as batch 1 does, and the layers are told what is true."""

from __future__ import annotations

import pytest
import torch

from llava.inference import GenerationOptions, Inference, Question
from llava.model.restore import PlacedRows, PlacedTokens
from llava.serve.chat import Chat
from tests.model.language_pruning.tiny_models import load_tiny, samples, save_tiny, together
from tests.model.tiny import IMAGE_TOKEN, random_ids, random_pixels

PATCHES = 16
BUDGETS = ["divprune:6", "holov:6,crops=4", "scope:7", "fastervlm:6", "vispruner:6,rule=distinct", "random:2"]
BUDGETS += ["uniform:16", "coverage:6,strength=0"]
SHORT = {"max_new_tokens": 6, "do_sample": False}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_tiny(save_tiny(tmp_path_factory.mktemp("llava")))


def restore(model, budget="divprune:6"):
    model.set_compression(f"{budget},positions=restore")
    return model


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_batch_is_as_batch_one(model, budget, side):
    """Prompts with one, no and two images, padded on either side."""
    parts = samples(restore(model, budget))
    batch = together(parts, side)
    logits = model(**batch).logits
    lengths = []
    for row, part in enumerate(parts):
        alone = model(**together([part])).logits[0]
        lengths.append(len(alone))
        own = logits[row, -len(alone) :] if side == "left" else logits[row, : len(alone)]
        torch.testing.assert_close(own, alone, rtol=1e-4, atol=1e-4)
    tokens = int(budget.split(":")[1].split(",")[0])
    assert lengths == [len(ids) + len(images) * (tokens - 1) for ids, images, _ in parts]


@pytest.mark.parametrize("budget", ["divprune:6", "scope:7"])
def test_answers_of_a_batch(model, budget):
    parts = samples(restore(model, budget))
    output = model.generate(**together(parts), **SHORT)
    for row, part in enumerate(parts):
        alone = model.generate(**together([part]), **SHORT)[0].tolist()
        assert output[row].tolist()[: len(alone)] == alone


def test_beams_and_samples_of_a_batch(model):
    parts = samples(restore(model))
    beams = model.generate(**together(parts), **SHORT, num_beams=3)
    for row, part in enumerate(parts):
        alone = model.generate(**together([part]), **SHORT, num_beams=3)[0].tolist()
        assert beams[row].tolist()[: len(alone)] == alone
    torch.manual_seed(0)
    several = model.generate(**together(parts), max_new_tokens=3, do_sample=True, num_return_sequences=2)
    assert len(several) == 2 * len(parts)


@torch.no_grad()
def test_both_conventions_agree(model):
    restore(model)
    pixels, ids = random_pixels(2, 3, 28, 28), torch.stack([random_ids(7), random_ids(7, seed=1)])
    ours, expanded = ids.clone(), torch.full((2, 12), IMAGE_TOKEN)
    ours[:, 2] = -200
    expanded[:, :2], expanded[:, 8:] = ids[:, :2], ids[:, 3:]
    wanted = model(ours, images=pixels).logits
    found = model(expanded, pixel_values=pixels).logits
    torch.testing.assert_close(found, wanted)
    answers = model.generate(ours, images=pixels, **SHORT)
    assert torch.equal(model.generate(expanded, pixel_values=pixels, **SHORT)[:, 12:], answers)
    beams = model.generate(expanded, pixel_values=pixels, **SHORT, num_beams=2)[:, 12:]
    assert torch.equal(beams, model.generate(ours, images=pixels, **SHORT, num_beams=2))


@torch.no_grad()
def test_layers_are_told_sizes_and_distances(model):
    """The bias of one query, told from attention that is made to see nothing else."""
    restore(model)
    features = model.encode_images(random_pixels(1, 3, 28, 28))
    ids = torch.cat([random_ids(4), torch.tensor([-200]), random_ids(3)])[None]
    _, sequence = model.embed_prompts(ids, image_features=features)
    rows: PlacedRows = model.model.pruning_inputs(sequence)["image_rows"]
    image = features[0]
    assert isinstance(image, PlacedTokens) and int(image.sizes.sum()) == image.num_rows == PATCHES
    places = (4 + image.places).tolist()
    assert rows.positions[0].tolist() == [0, 1, 2, 3, *places, *range(4 + PATCHES, 7 + PATCHES)]
    assert int(rows.next_position[0]) == 7 + PATCHES
    torch.testing.assert_close(rows.log_sizes[0, 4:10], image.sizes.float().log())
    torch.testing.assert_close(rows.first_log_sizes[0, 4:10], torch.full((6,), PATCHES / 6).log())
    assert not rows.log_sizes[0, :4].any() and not rows.log_sizes[0, 10:].any()


@torch.no_grad()
def test_the_next_image_stands_behind_a_whole_one(model):
    restore(model)
    features = model.encode_images(random_pixels(2, 3, 28, 28))
    ids = torch.tensor([[5, -200, 6, -200, 7, 8], [0, 0, 0, 0, 9, 4]])
    _, sequence = model.embed_prompts(ids, image_features=features, attention_mask=(ids != 0).long())
    rows = model.model.pruning_inputs(sequence)["image_rows"]
    first, second = ((1 + features[0].places).tolist(), (2 + PATCHES + features[1].places).tolist())
    last = 2 + 2 * PATCHES
    assert rows.positions[0].tolist() == [0, *first, 1 + PATCHES, *second, last, last + 1]
    assert rows.positions[1, -2:].tolist() == [0, 1]
    assert rows.next_position.tolist() == [last + 2, 2] and rows.has_image.tolist() == [True, False]


@torch.no_grad()
def test_text_alone_is_read_as_without_it(model):
    ids = random_ids(6)[None]
    restore(model)
    found = model(ids).logits, model.generate(ids, **SHORT)
    model.set_compression(None)
    assert torch.equal(found[0], model(ids).logits) and torch.equal(found[1], model.generate(ids, **SHORT))


@torch.no_grad()
def test_images_keep_their_places_where_the_vision_side_is_compiled(model):
    pixels = random_pixels(2, 3, 28, 28)
    wanted = restore(model).encode_images(pixels)
    model.compile_vision(backend="eager")
    try:
        found = model.encode_images(pixels)
    finally:
        model.model.compiled_vision = None
    for one, other in zip(found, wanted, strict=True):
        assert isinstance(one, PlacedTokens) and torch.equal(one, other) and torch.equal(one.places, other.places)


@torch.no_grad()
def test_other_budgets_are_untouched(model):
    """Bit for bit, before and after it has been on."""
    given = together(samples(model))
    for budget in (None, "divprune:6", "visionzip:4+2"):
        model.set_compression(budget)
        before = model(**given).logits
        restore(model)(**given)
        model.set_compression(budget)
        assert torch.equal(model(**given).logits, before)
    assert not isinstance(model.encode_each(given["images"])[0], PlacedTokens)


def test_the_projector_learns_under_it(model):
    """Loss and gradients, with gradient checkpointing and without, padded on the right."""
    parts = samples(restore(model))
    given = together(parts, "right")
    labels = given["input_ids"].clone().masked_fill(given["input_ids"] < 1, -100)
    projector, losses, norms = model.model.multi_modal_projector, [], []
    try:
        for checkpointed in (False, True):
            model.train()
            if checkpointed:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            model.zero_grad()
            loss = model(**given, labels=labels, loss_only=True).loss
            loss.backward()
            losses.append(loss.detach())
            norms.append(torch.stack([weight.grad.norm() for weight in projector.parameters()]))
    finally:
        model.gradient_checkpointing_disable()
        model.zero_grad()
        model.eval()
    assert (norms[0] > 0).all()
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(norms[0], norms[1], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert model(**given, labels=labels).loss.item() == pytest.approx(losses[0].item(), rel=1e-4)


@torch.no_grad()
def test_given_answers_are_read_as_generated_ones(model):
    """The loss of an answer is how likely it is to be generated, in either convention."""
    (ids, images, sizes), *_ = samples(restore(model))
    given = together([(ids, images, sizes)])
    made = model.generate(**given, **SHORT, min_new_tokens=6, output_logits=True, return_dict_in_generate=True)
    wanted = torch.nn.functional.cross_entropy(torch.cat(made.logits), made.sequences[0])
    whole = torch.cat([ids, made.sequences[0]])[None]
    labels = torch.cat([torch.full_like(ids, -100), made.sequences[0]])[None]
    for more in ({}, {"loss_only": True}):
        loss = model(input_ids=whole, images=images, labels=labels, **more).loss
        torch.testing.assert_close(loss, wanted)
    place = int((ids == -200).nonzero())
    opened = [
        torch.cat([row[0, :place], torch.full((6,), fill), row[0, place + 1 :]])[None]
        for row, fill in ((whole, IMAGE_TOKEN), (labels, -100))
    ]
    loss = model(input_ids=opened[0], pixel_values=torch.cat(images), labels=opened[1]).loss
    torch.testing.assert_close(loss, wanted)


@pytest.fixture(scope="module")
def inference(oracle_dir):
    return Inference.load(oracle_dir / "tiny-llava-v1.5", device="cpu", compression="divprune:64,positions=restore")


def test_questions_of_a_batch_and_a_conversation(inference, oracle_dir):
    """Prefixes are not shared, for rows before an image are told of distances too; a chat reads all of it anew."""
    picture = oracle_dir / "images" / "square.png"
    questions = [Question(text, (picture,)) for text in ("What is it?", "What is it then, in a word?", "And now?")]
    options = GenerationOptions(max_new_tokens=6)
    found = {answer.index: answer.token_ids for answer in inference.ask(questions, batch_size=3, options=options)}
    for index, question in enumerate(questions):
        alone = next(inference.ask([question], batch_size=1, options=options))
        assert alone.token_ids == found[index]
    chat = Chat(inference, [picture])
    chat.say("What is it?", options=options)
    chat.say("And now?", options=options)
    start, end = chat.answer_spans[1]
    image = inference.open([picture])
    whole = inference.model.generate(
        torch.tensor([chat.token_ids[:start]]),
        image_features=inference.encode(image),
        **SHORT,
        **inference.stop_kwargs(),
    )
    assert inference.until_end(whole[0].tolist()) == chat.token_ids[start:end]
