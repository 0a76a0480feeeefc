"""Video-LLaVA beyond its records: batches, methods, devices, files, what its configs may say, what is refused."""

from __future__ import annotations

import copy
import json
import logging
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig
from transformers import VideoLlavaConfig as HFVideoLlavaConfig
from transformers import VideoLlavaForConditionalGeneration as HFVideoLlava

from llava.hub.export import export
from llava.kinds.families import clip_rules, family_of_llava
from llava.model.auto import AutoLlava
from llava.model.builder import instantiate
from llava.model.checkpoints.files import CheckpointError
from llava.model.checkpoints.parts import parts_of_checkpoint
from llava.model.clips import ClipPixels, clips_among, with_modalities
from llava.model.configuration import CompressionConfig
from llava.model.families.video_llava.files import read_config
from llava.model.families.video_llava.model import VideoLlavaForConditionalGeneration
from llava.model.multimodal_compressor.registry import available_compressors, get_compressor
from llava.model.multimodal_encoder import extract_features
from llava.model.question_reader import QuestionReader
from tests.model.meta_clean import MetaClean
from tests.model.tiny import IMAGE_TOKEN, TEXT, VISION, hf_llava, random_ids, random_pixels, sharpen
from tests.model.tiny_video import FRAMES, TOKENS, video_llava

RAW = {
    **{name: value for name, value in TEXT.items() if name != "pad_token_id"},
    "model_type": "llava",
    "mm_image_tower": "image",
    "mm_video_tower": "video",
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "image_aspect_ratio": "pad",
}
GREEDY = {"do_sample": False, "max_new_tokens": 5}


@pytest.fixture(scope="module")
def model():
    return video_llava()


@pytest.fixture
def own(model):
    """A copy, to be changed."""
    return copy.deepcopy(model)


def clip(seed: int = 0) -> torch.Tensor:
    return random_pixels(FRAMES, 3, 28, 28, seed=seed)


def image(seed: int = 9) -> torch.Tensor:
    return random_pixels(3, 28, 28, seed=seed)


def ids_for(*visuals: torch.Tensor) -> torch.Tensor:
    """-200 for an image and for each frame, text around them."""
    row = []
    for number, visual in enumerate(visuals):
        row += [*random_ids(2, seed=number).tolist(), *[-200] * (FRAMES if visual.dim() == 4 else 1)]
    return torch.tensor([[*row, 5, 6, 7]])


def test_the_layers_read_one_by_one_are_the_whole_tower(model):
    pixels = torch.cat([clip(1), clip(2)])
    with torch.no_grad():
        whole = model.model.video_tower(pixels, output_hidden_states=True).hidden_states
        for layer in (-1, -2, 1):
            ours = extract_features(model.model.video_tower, pixels, layer, {"keys", "saliency"}).content
            torch.testing.assert_close(ours, whole[layer], atol=1e-5, rtol=1e-5)


def test_frames_see_each_other_and_their_order(model):
    tower = model.model.video_tower
    with torch.no_grad():
        plain = extract_features(tower, clip(), -2).content
        other = torch.cat([clip()[:3], clip(5)[3:]])
        assert not torch.allclose(extract_features(tower, other, -2).content[0], plain[0], atol=1e-3)
        turned = extract_features(tower, clip().flip(0), -2).content.flip(0)
    assert not torch.allclose(turned, plain, atol=1e-3)
    with pytest.raises(ValueError, match="6 frames are not whole clips: the video tower takes 4 each"):
        extract_features(tower, random_pixels(6, 3, 28, 28), -2)


@pytest.mark.parametrize("compression", [None, "visionzip:5+2", "visionzip:6,adaptive=attention,threshold=0.4"])
def test_clips_and_images_in_any_order_are_each_as_alone(compression, own):
    own.set_compression(compression)
    visuals = [clip(1), image(), clip(2), image(8), clip(3)]
    with torch.no_grad():
        together = own.encode_images(visuals)
        alone = [row for each in visuals for row in own.encode_images([each])]
    assert len(together) == len(alone) == 3 * FRAMES + 2
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    if compression is None:
        assert [len(row) for row in together[: FRAMES + 1]] == [TOKENS] * FRAMES + [16]


@pytest.mark.parametrize(
    "compression",
    [
        None,
        "visionzip:5+2",
        "visionzip:5+2|fastv:4,layer=1",
        "changes:6",
        "changes:6|fastv:4,layer=1",
        "fewer_frames:6",
    ],
)
def test_a_batch_of_prompts_is_its_prompts_one_by_one(compression, own):
    own.set_compression(compression)
    prompts = [(clip(1),), (clip(2), image()), (image(8), clip(3))]
    ids = [ids_for(*visuals) for visuals in prompts]
    width = max(row.shape[1] for row in ids)
    padded = torch.cat([torch.nn.functional.pad(row, (width - row.shape[1], 0)) for row in ids])
    mask = torch.cat([torch.nn.functional.pad(torch.ones_like(row), (width - row.shape[1], 0)) for row in ids])
    images = [visual for visuals in prompts for visual in visuals]
    together = own.generate(padded, images=images, attention_mask=mask, **GREEDY)
    for row, visuals, own_ids in zip(together, prompts, ids, strict=True):
        assert torch.equal(own.generate(own_ids, images=list(visuals), **GREEDY)[0], row)


OPTIONS = {
    "vispruner": "7,rule=distinct",
    "prumerge_plus": "6,rule=distinct",
    "holov": "6,crops=4",
    "downsample": "4",
}


@pytest.mark.parametrize("method", available_compressors())
def test_every_method_keeps_its_budget_of_each_frame(method, own):
    budget = CompressionConfig.parse(f"{method}:{OPTIONS.get(method, 6)}")
    own.set_compression(budget)
    embedding = own.get_input_embeddings()
    own.model.question_reader = QuestionReader(lambda text, **_: SimpleNamespace(input_ids=[5, 6]), lambda: embedding)
    clips = [clip(1), clip(2)]
    with torch.no_grad():
        together = own.encode_images(clips, questions=["What?"] * 2)
        alone = [row for each in clips for row in own.encode_images([each], questions=["What?"])]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    lengths = [len(row) for row in together[:FRAMES]]
    assert own.num_clip_tokens() == [budget.num_tokens] * FRAMES and sum(lengths) == budget.num_tokens * FRAMES
    assert get_compressor(method).across is not None or len(set(lengths)) == 1


def test_frames_share_the_clips_total_by_gain(own):
    own.set_compression("coverage:6,tiles=gain")
    with torch.no_grad():
        lengths = [len(row) for row in own.encode_images([clip(1), clip(2)])]
    assert sum(lengths[:FRAMES]) == sum(lengths[FRAMES:]) == 6 * FRAMES == sum(own.num_clip_tokens())
    assert min(lengths) >= 1 and len(set(lengths)) > 1


@pytest.mark.parametrize(
    ("compression", "message"),
    [
        ("divprune:6,positions=restore", "positions=restore is for images"),
        ("visionzip:5+2,tiles=area", "tiles=area goes by the tiles of an image"),
    ],
)
def test_what_frames_cannot_have(compression, message, own):
    own.set_compression(compression)
    with pytest.raises(ValueError, match=message):
        own.num_clip_tokens()
    with pytest.raises(ValueError, match=message):
        own.encode_images([clip()])
    own.encode_images([image()], [(28, 28)])


def test_nothing_leaves_the_device(model):
    on_meta = copy.deepcopy(model).to("meta")
    for compression in (None, "visionzip:5+2", "uniform:6"):
        on_meta.set_compression(compression)
        with MetaClean(), torch.no_grad():
            rows = on_meta.encode_images([clip(1).to("meta"), image().to("meta"), clip(2).to("meta")])
        assert [len(row) for row in rows[:FRAMES]] == on_meta.num_clip_tokens()


def test_other_ways_to_give_a_clip(model):
    """Colours first, as the original has it; a batch of clips in one tensor; `ClipPixels`; LLaVA-NeXT's modalities."""
    with torch.no_grad():
        expected = model.encode_images([clip()])
        for given in (
            [clip().transpose(0, 1)],
            clip().unsqueeze(0),
            clip().transpose(0, 1).unsqueeze(0),
            [ClipPixels(clip())],
            with_modalities([clip()], ["video"]),
        ):
            for one, other in zip(model.encode_images(given), expected, strict=True):
                assert torch.equal(one, other)
        ids = ids_for(clip())
        logits = model(ids, images=[clip()]).logits
        assert torch.equal(model(ids, images=[clip()], modalities=["video"]).logits, logits)
        assert torch.equal(model(ids, image_features=expected).logits, logits)
    made = model.generate(ids, images=[clip()], **GREEDY)
    assert torch.equal(model.generate(ids, images=clip().unsqueeze(0), modalities=["video"], **GREEDY), made)


def test_clips_that_do_not_fit_are_refused(model):
    for given, message in (
        ([random_pixels(5, 3, 28, 28)], "5 frames of a video are asked for, and this model sees 4"),
        ([ClipPixels(random_pixels(4, 1, 28, 28))], "must be .frames, 3, height, width."),
    ):
        with pytest.raises(ValueError, match=message):
            model.encode_images(given)
    with pytest.raises(ValueError, match="1 image placeholders"):
        model(torch.tensor([[3, -200, 5]]), images=[clip()])
    shared = torch.tensor([[3, *[-200] * 5], [*[-200] * 3, 5, 6, 7]])
    with pytest.raises(ValueError, match=r"a video stand in two prompts: these hold \[5, 3\], .* take \[4, 4\]"):
        model(shared, images=[clip(), clip(1)])
    with pytest.raises(ValueError, match="modalities name 2 images, and 1 are given"):
        model.generate(ids_for(clip()), images=[clip()], modalities=["video", "image"])
    with pytest.raises(ValueError, match="'audio' is neither 'image' nor 'video'"):
        with_modalities([clip()], ["audio"])


def test_other_families_say_that_they_see_no_videos(tmp_path):
    hf_llava().save_pretrained(tmp_path)
    plain = instantiate(parts_of_checkpoint(tmp_path), dtype=torch.float32)
    with pytest.raises(ValueError, match=r"a LLaVA-1.5 sees images and no videos; these do: .*Video-LLaVA"):
        plain.encode_images([ClipPixels(clip())])
    assert clips_among([random_pixels(2, 3, 28, 28)], plain.config) == {}
    with pytest.raises(ValueError, match="sees images and no videos"):
        plain(input_ids=torch.tensor([[3, 4]]), pixel_values_videos=clip()[None])


def test_saved_and_loaded_again(model, tmp_path):
    model.save_pretrained(tmp_path)
    entries = json.loads((tmp_path / "config.json").read_text())
    assert entries["model_type"] == "video_llava_original" and entries["video_config"]["num_frames"] == FRAMES
    again = AutoLlava.from_pretrained(tmp_path).eval()
    assert isinstance(again, VideoLlavaForConditionalGeneration) and clip_rules(again.config).frames == FRAMES
    ids = ids_for(clip(), image())
    with torch.no_grad():
        assert torch.equal(again(ids, images=[clip(), image()]).logits, model(ids, images=[clip(), image()]).logits)
    with pytest.raises(ValueError, match="video_llava_original"):
        AutoModelForImageTextToText.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="attention over time"):
        export(tmp_path, "hf", tmp_path.parent / "exported")


def test_a_missing_time_tensor_is_named(model, tmp_path):
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    name = next(each for each in state if each.endswith("layers.1.temporal_embedding"))
    del state[name]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing tensors \(1\): .*layers\.1\.temporal_embedding"):
        AutoLlava.from_pretrained(tmp_path)


@pytest.fixture(scope="module")
def hf_pair(tmp_path_factory):
    """transformers' model and ours, of the same weights in the -hf format."""
    folder = tmp_path_factory.mktemp("hf")
    torch.manual_seed(3)
    config = HFVideoLlavaConfig(
        vision_config=CLIPVisionConfig(**VISION),
        text_config=LlamaConfig(**TEXT),
        image_token_index=IMAGE_TOKEN,
        video_token_index=IMAGE_TOKEN - 1,
        image_seq_length=16,
        video_seq_length=8 * TOKENS,
    )
    theirs = sharpen(HFVideoLlava(config))
    theirs.save_pretrained(folder)
    return theirs, folder


def test_the_hf_format_equals_transformers_and_says_what_it_lacks(hf_pair, caplog, tmp_path):
    theirs, folder = hf_pair
    with caplog.at_level(logging.WARNING):
        ours = instantiate(parts_of_checkpoint(folder), dtype=torch.float32).eval()
    (said,) = [record.message for record in caplog.records if "-hf format" in record.message]
    assert "attention over time" in said and "quick_gelu" in said and "LanguageBind/Video-LLaVA-7B" in said
    frames = random_pixels(8, 3, 28, 28)
    text = [5, 6, 7]
    ids = torch.tensor([[3, *[-200] * 8, 4, -200, *text]])
    expanded = torch.tensor([[3, *[IMAGE_TOKEN - 1] * (8 * TOKENS), 4, *[IMAGE_TOKEN] * 16, *text]])
    with torch.no_grad():
        expected = theirs(input_ids=expanded, pixel_values_videos=frames[None], pixel_values=image()[None]).logits
        logits = ours(ids, images=[frames, image()]).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    ours.save_pretrained(tmp_path)
    again, info = HFVideoLlava.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for name, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize("compression", ["changes:5", "fewer_frames:5,every=2"])
def test_frames_that_share_a_total_in_transformers_convention(compression, hf_pair):
    """As many video tokens as the clip's total, wherever the frames' rows end; a dropped frame has none."""
    ours = instantiate(parts_of_checkpoint(hf_pair[1]), dtype=torch.float32).eval()
    ours.set_compression(compression)
    frames = torch.stack([random_pixels(8, 3, 28, 28, seed=seed) for seed in (1, 2)])
    expanded = torch.tensor([[3, *[IMAGE_TOKEN - 1] * 40, 4, *[IMAGE_TOKEN] * 5, *[IMAGE_TOKEN - 1] * 40, 5]])
    ids = torch.tensor([[3, *[-200] * 8, 4, -200, *[-200] * 8, 5]])
    with torch.no_grad():
        logits = ours(input_ids=expanded, pixel_values_videos=frames, pixel_values=image()[None]).logits
        by_images = ours(ids, images=[frames[0], image(), frames[1]]).logits
    assert logits.shape[1] == by_images.shape[1] == expanded.shape[1]
    torch.testing.assert_close(logits, by_images, atol=1e-5, rtol=1e-5)


def folder_of(tmp_path, raw=RAW, **changes):
    """A config.json of the original, its towers' beside it."""
    entries = {"hidden_act": "gelu", "lora_r": 0, **VISION}
    for name, more in (("image", {"add_time_attn": False}), ("video", {"add_time_attn": True, "num_frames": FRAMES})):
        (tmp_path / name).mkdir(exist_ok=True)
        content = {"model_type": "LanguageBind", "vision_config": {**entries, **more, **changes.get(name, {})}}
        (tmp_path / name / "config.json").write_text(json.dumps(content))
    (tmp_path / "config.json").write_text(json.dumps(raw))
    return tmp_path


def test_the_originals_config(tmp_path):
    config = read_config(RAW, folder_of(tmp_path))
    assert (config.vision_config.hidden_act, config.video_config.hidden_act) == ("gelu", "gelu")
    assert config.video_config.num_frames == FRAMES and config.conv_mode == "llava_v1"
    assert family_of_llava(RAW).name == "Video-LLaVA"


def test_the_published_towers_are_known_without_their_repositories(tmp_path):
    raw = RAW | {"mm_image_tower": "LanguageBind/LanguageBind_Image"}
    raw |= {"mm_video_tower": "LanguageBind/LanguageBind_Video_merge"}
    config = read_config(raw, tmp_path)
    assert (config.vision_config.hidden_size, config.vision_config.image_size) == (1024, 224)
    assert (config.video_config.num_frames, config.video_config.hidden_act) == (8, "gelu")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"mm_use_x_start_end": True}, "mm_use_x_start_end"),
        ({"mm_image_tower": None}, "mm_image_tower is None"),
        ({"mm_video_tower": ["a"]}, "mm_video_tower is"),
        ({"mm_image_tower": "video"}, "mm_image_tower: add_time_attn is true"),
        ({"mm_video_tower": "nowhere"}, "mm_video_tower: nowhere: there is no such folder"),
        ({"mm_projector_type": "perceiver"}, "perceiver"),
    ],
)
def test_configs_that_would_be_misread_are_refused(entries, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        read_config(RAW | entries, folder_of(tmp_path))


def test_a_tower_of_another_kind_is_refused(tmp_path):
    folder_of(tmp_path)
    (tmp_path / "image" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="vision_config is missing; is this a tower of LanguageBind"):
        read_config(RAW, tmp_path)
