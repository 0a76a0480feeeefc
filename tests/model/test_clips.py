"""Videos of LLaVA-OneVision and LLaVA-NeXT-Video beyond their records: transformers' classes, batches, methods."""

from __future__ import annotations

import copy
from itertools import groupby
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, LlamaConfig, LlavaNextImageProcessorPil
from transformers import LlavaNextVideoConfig as HFLlavaNextVideoConfig
from transformers import LlavaNextVideoForConditionalGeneration as HFLlavaNextVideo

from llava.inference import Inference, Question
from llava.model.builder import instantiate, load_pretrained_model
from llava.model.checkpoints.parts import parts_of_checkpoint
from llava.model.clips import ClipPixels
from llava.model.configuration import CompressionConfig
from llava.model.families.llava_next_video.processor import LlavaNextVideoProcessor
from llava.model.multimodal_compressor.registry import CLS_NEEDS, available_compressors, get_compressor
from llava.model.question_reader import QuestionReader
from llava.video import UnreadableVideoError, Video
from tests.model.folders import TINY
from tests.model.meta_clean import MetaClean
from tests.model.tiny import (
    IMAGE_TOKEN,
    PINPOINTS,
    TEXT,
    hf_llava_onevision,
    random_ids,
    random_pixels,
    sharpen,
    vision_config,
)

VIDEO_TOKEN = IMAGE_TOKEN - 1
GREEDY = {"do_sample": False, "max_new_tokens": 5}
FAMILIES = ("onevision", "next_video")
ROWS = {"onevision": 2 * 2, "next_video": 2 * 2}  # of a frame of 4 x 4 patches
BEHIND = {"onevision": 1, "next_video": 0}


def hf_next_video(**changes) -> HFLlavaNextVideo:
    torch.manual_seed(2)
    config = HFLlavaNextVideoConfig(
        vision_config=vision_config(),
        text_config=LlamaConfig(**TEXT),
        image_token_index=IMAGE_TOKEN,
        video_token_index=VIDEO_TOKEN,
        image_grid_pinpoints=PINPOINTS,
        **changes,
    )
    return sharpen(HFLlavaNextVideo(config))


@pytest.fixture(scope="module", params=FAMILIES)
def both(request, tmp_path_factory):
    """transformers' model and ours, of the same weights."""
    name = request.param
    theirs = hf_llava_onevision() if name == "onevision" else hf_next_video()
    folder = tmp_path_factory.mktemp(name)
    theirs.save_pretrained(folder)
    ours = instantiate(parts_of_checkpoint(folder), dtype=torch.float32).eval()
    return SimpleNamespace(name=name, theirs=theirs, ours=ours)


@pytest.fixture
def ours(both):
    """A copy of ours, to be changed."""
    return copy.deepcopy(both.ours)


def clip(frames: int = 3, seed: int = 0) -> ClipPixels:
    return ClipPixels(random_pixels(frames, 3, 28, 28, seed=seed))


def tiles(count: int = 3, seed: int = 7) -> torch.Tensor:
    return random_pixels(count, 3, 28, 28, seed=seed)


SIZE = (50, 28)  # (w, h): a base tile and a grid of two


def test_a_video_and_an_image_equal_transformers(both):
    """Both conventions: a video token for every feature, and -200 for each of the two."""
    theirs, ours, video = both.theirs, both.ours, clip()
    rows = 3 * ROWS[both.name] + BEHIND[both.name]
    assert ours.num_clip_tokens(3) == [rows]
    (count,) = ours.num_visual_tokens([SIZE])
    words = random_ids(6, seed=1).clamp(max=VIDEO_TOKEN - 1).tolist()
    ids = torch.tensor([[*words[:2], *[VIDEO_TOKEN] * rows, *words[2:4], *[IMAGE_TOKEN] * count, *words[4:]]])
    given = {"pixel_values_videos": video.pixels[None], "pixel_values": tiles()[None]}
    given["image_sizes"] = torch.tensor([SIZE[::-1]])
    with torch.no_grad():
        expected = theirs(input_ids=ids, **given).logits
        torch.testing.assert_close(ours(input_ids=ids, **given).logits, expected, atol=1e-5, rtol=1e-5)
        short = torch.tensor([[*words[:2], -200, *words[2:4], -200, *words[4:]]])
        by_images = ours(short, images=[video, tiles()], image_sizes=[(0, 0), SIZE]).logits
        named = ours(
            short, images=[video.pixels, tiles()], image_sizes=[(0, 0), SIZE], modalities=["video", "image"]
        ).logits
    torch.testing.assert_close(by_images, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(named, by_images)
    assert torch.equal(
        ours.generate(input_ids=ids, **given, **GREEDY), theirs.generate(input_ids=ids, **given, **GREEDY)
    )


def test_tokens_that_do_not_fit_a_video_are_refused(both):
    ours, pixels = both.ours, clip().pixels[None]
    with pytest.raises(ValueError, match="the ids hold 5 image tokens, but the images have"):
        ours(input_ids=torch.tensor([[3, *[VIDEO_TOKEN] * 5, 4]]), pixel_values_videos=pixels)
    with pytest.raises(ValueError, match="pixel_values_videos need input_ids"):
        ours.model(inputs_embeds=torch.zeros(1, 4, 32), pixel_values_videos=pixels)


@pytest.mark.parametrize("compression", [None, "visionzip:2+1"])
def test_videos_of_different_lengths_and_images_are_each_as_alone(compression, ours, both):
    ours.set_compression(compression)
    visuals, sizes = [clip(3, 1), tiles(), clip(2, 2), clip(5, 3)], [(0, 0), SIZE, (0, 0), (0, 0)]
    with torch.no_grad():
        together = ours.encode_images(visuals, sizes)
        alone = [ours.encode_images([each], [size])[0] for each, size in zip(visuals, sizes, strict=True)]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    frame = ROWS[both.name] if compression is None else 3
    assert [len(rows) for rows in (together[0], together[2], together[3])] == [
        count * frame + BEHIND[both.name] for count in (3, 2, 5)
    ]


OPTIONS = {
    "vispruner": "3,rule=distinct",
    "prumerge_plus": "3,rule=distinct",
    "holov": "3,crops=1",
    "pool": "2",
    "downsample": "2",
}


@pytest.mark.parametrize("method", available_compressors())
def test_methods_choose_among_the_pooled_patches_of_each_frame(method, ours, both):
    """Those that stand elsewhere, or read a CLS token that is not there, say so."""
    budget = CompressionConfig.parse(f"{method}:{OPTIONS.get(method, 3)}")
    compressor = get_compressor(method)
    needs, places = compressor.needs_with(compressor.options_of(budget)), compressor.places
    offered = {"onevision": {"pooled", "projected"}, "next_video": {"tower", "projected"}}[both.name]
    lacks_cls = both.name == "onevision" and not needs.isdisjoint(CLS_NEEDS)
    if lacks_cls:
        with pytest.raises(ValueError, match="CLS token"):
            ours.set_compression(budget)
        return
    ours.set_compression(budget)
    if not offered & set(places):
        with pytest.raises(ValueError, match=f"of a video's frame: compression method '{method}' stands at"):
            ours.num_clip_tokens(2)
        return
    embedding = ours.get_input_embeddings()
    ours.model.question_reader = QuestionReader(lambda text, **_: SimpleNamespace(input_ids=[5, 6]), lambda: embedding)
    clips = [clip(2, 1), clip(3, 2)]
    with torch.no_grad():
        together = ours.encode_images(clips, questions=["What?"] * 2)
        alone = [ours.encode_images([each], questions=["What?"])[0] for each in clips]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert [len(rows) for rows in together] == [ours.num_clip_tokens(count)[0] for count in (2, 3)]
    assert len(together[0]) == 2 * budget.num_tokens + BEHIND[both.name]


def test_a_budget_that_fits_images_and_no_frame(ours):
    ours.set_compression("visionzip:10+2")
    ours.encode_images([tiles()], [SIZE])
    with pytest.raises(ValueError, match=r"of a video's frame: .*dominant=10 is outside 1\.\.4"):
        ours.num_clip_tokens(2)


def test_nothing_leaves_the_device(both):
    model = copy.deepcopy(both.ours).to("meta")
    for compression in (None, "visionzip:2+1", "changes:2", "fewer_frames:2"):
        model.set_compression(compression)
        with MetaClean(), torch.no_grad():
            rows = model.encode_images([clip(2).to("meta"), clip(3).to("meta")])
        assert [len(each) for each in rows] == [model.num_clip_tokens(count)[0] for count in (2, 3)]


def test_what_we_save_plain_transformers_loads(both, tmp_path):
    both.ours.save_pretrained(tmp_path)
    again, info = type(both.theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for name, value in both.theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize("mode", ["max", "average"])
def test_other_poolings_of_next_video(mode, tmp_path):
    theirs = hf_next_video(spatial_pool_mode=mode, spatial_pool_stride=4)
    theirs.save_pretrained(tmp_path)
    ours = instantiate(parts_of_checkpoint(tmp_path), dtype=torch.float32).eval()
    video = clip(2)
    with torch.no_grad():
        expected = theirs.model.get_video_features(video.pixels[None]).pooler_output[0]
        torch.testing.assert_close(ours.encode_images([video])[0], expected, atol=1e-5, rtol=1e-5)


def test_configs_whose_videos_would_be_misread_are_refused(tmp_path):
    theirs = hf_next_video(spatial_pool_mode="conv")
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="spatial_pool_mode 'conv' is none of average, max"):
        instantiate(parts_of_checkpoint(tmp_path), dtype=torch.float32)


def test_llava_video_is_refused_for_videos_alone(tmp_path):
    hf_llava_onevision().save_pretrained(tmp_path)
    model = instantiate(parts_of_checkpoint(tmp_path), dtype=torch.float32).eval()
    model.config.mm_newline_position = "grid"
    model.encode_images([tiles()], [SIZE])
    with pytest.raises(ValueError, match="mm_newline_position 'grid': videos of such a model"):
        model.encode_images([clip()])


@pytest.fixture(scope="module")
def with_processor(tmp_path_factory):
    """A LLaVA-NeXT-Video with a tokenizer that knows `<video>`, and its processor."""
    folder = tmp_path_factory.mktemp("processor")
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<video>"]})
    image_token, video_token = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    text = {**TEXT, "vocab_size": len(tokenizer)}
    torch.manual_seed(4)
    config = HFLlavaNextVideoConfig(
        vision_config=vision_config(),
        text_config=LlamaConfig(**text),
        image_token_index=image_token,
        video_token_index=video_token,
        image_grid_pinpoints=PINPOINTS,
    )
    sharpen(HFLlavaNextVideo(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    view = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    LlavaNextImageProcessorPil(**view, image_grid_pinpoints=PINPOINTS).save_pretrained(folder)
    tokenizer, model, image_processor, _ = load_pretrained_model(folder, device="cpu")
    return folder, Inference(tokenizer, model, image_processor)


@pytest.mark.parametrize("compression", [None, "visionzip:2+1"])
def test_the_processor_prepares_videos_as_inference_does(compression, with_processor):
    folder, inference = with_processor
    model = inference.model
    model.set_compression(compression)
    processor = LlavaNextVideoProcessor.for_model(model, inference.tokenizer)
    frames = (random_pixels(9, 20, 30, 3) * 99).byte().numpy()
    picture, video = Image.fromarray(frames[0]), Video(frames, 4)
    question = Question("What is <image> in <video>?", (picture, video))
    prompt = inference.prompt(question).replace("<image>", "<video>").replace("<video>", "<image>", 1)
    inputs = processor(images=picture, text=[prompt], videos=[video], return_tensors="pt")
    assert inputs["pixel_values_videos"].shape == (1, 4, 3, 28, 28)
    visual = {model.config.image_token_id, model.config.video_token_id}
    row = inputs["input_ids"][0].tolist()
    counts = [len(list(run)) for token, run in groupby(row) if token in visual]
    assert counts == [*model.num_visual_tokens([picture.size]), *model.num_clip_tokens(4)]
    short = [each for token, run in groupby(row) for each in ([-200] if token in visual else list(run))]
    with torch.no_grad():
        logits = model(**inputs).logits
        expected = model(torch.tensor([short]), image_features=inference.encode([picture, video])).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    apart = LlavaNextVideoProcessor.from_pretrained(folder, compression=compression)
    again = apart(images=picture, text=prompt, videos=video, return_tensors="pt")
    assert torch.equal(again["input_ids"], inputs["input_ids"])


def test_what_a_processor_refuses_of_videos(with_processor):
    _, inference = with_processor
    inference.model.set_compression(None)
    processor = LlavaNextVideoProcessor.for_model(inference.model, inference.tokenizer)
    frames = random_pixels(2, 4, 4, 3).byte().numpy()
    with pytest.raises(ValueError, match="the texts hold 2 <video>, but 1 videos were given"):
        processor(text="<video> <video>", videos=frames)
    with pytest.raises(ValueError, match=r"text 0 holds 1 <video>, but 2 videos were given for it"):
        processor(text=["<video>", "<video> <video>"], videos=[[frames, frames], [frames]])
    with pytest.raises(ValueError, match=r"have one number of frames, got \[2, 3\]"):
        processor(text="<video> <video>", videos=[Video(frames, 2), Video(frames, 3)])
    with pytest.raises(UnreadableVideoError, match=r"nowhere\.mp4"):
        processor(text="<video>", videos="nowhere.mp4")
