"""Ids against those of the slow Llama tokenizer, and what is left alone."""

import io
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

from llava.prompts.tokenization import load_tokenizer

ORACLE = Path(__file__).parents[1] / "fixtures" / "oracle"
LLAMA = ORACLE / "tiny-llava-v1.5"
TEXTS = json.loads((ORACLE / "misc.json").read_text())["tokenize_slow_4372"]


def differing(tokenizer, legacy: bool) -> list[str]:
    key = f"legacy_{str(legacy).lower()}"
    return [case["text"] for case in TEXTS if tokenizer(case["text"]).input_ids != case[key]]


def copy_llama(folder: Path, *, config: dict | None = None, **settings) -> Path:
    """A copy of the oracle's tokenizer with other settings (None removes one), perhaps with a config.json."""
    folder.mkdir(exist_ok=True)
    shutil.copy(LLAMA / "tokenizer.model", folder)
    merged = json.loads((LLAMA / "tokenizer_config.json").read_text()) | settings
    merged = {key: value for key, value in merged.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(merged))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["legacy_false", "legacy_true"])
def legacy(request) -> bool:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(legacy, tmp_path_factory):
    return load_tokenizer(copy_llama(tmp_path_factory.mktemp("llama"), legacy=legacy))


def test_ids_equal_the_slow_tokenizers(tokenizer, legacy):
    assert len(TEXTS) == 409
    assert differing(tokenizer, legacy) == []
    assert tokenizer.legacy is legacy


def test_the_stock_tokenizer_still_needs_the_mending(legacy, tmp_path):
    """Should this fail one day, transformers has mended itself and `load_tokenizer` can become simpler."""
    assert differing(AutoTokenizer.from_pretrained(copy_llama(tmp_path, legacy=legacy)), legacy)


@pytest.fixture(scope="module")
def sentencepiece() -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(LLAMA / "tokenizer.model"))


@settings(deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40))
def test_ids_equal_sentencepieces(tokenizer, sentencepiece, text):
    """Away from special tokens both settings give what SentencePiece itself gives."""
    assert tokenizer(text).input_ids == [1, *sentencepiece.encode(text)]


@pytest.mark.parametrize("config", [None, {"model_type": "llama"}, {"model_type": "llava", "text_config": {}}])
def test_a_saved_copy_gives_the_same_ids_everywhere(tokenizer, legacy, config, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    assert differing(AutoTokenizer.from_pretrained(tmp_path), legacy) == []
    again = load_tokenizer(tmp_path)
    assert differing(again, legacy) == []
    assert again.legacy is legacy


def test_the_checkpoints_settings_are_kept(tokenizer):
    assert tokenizer.padding_side == "right"
    assert tokenizer.model_max_length == 2048
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    assert len(tokenizer) == 700


def test_tokens_can_be_added(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    grown = load_tokenizer(tmp_path)
    assert grown.add_tokens(["<im_patch>"], special_tokens=True) == 1
    assert 700 in grown("a <im_patch> b").input_ids


def test_decoding_gives_the_text_back(tokenizer):
    for text in ("a cat", "USER: what\nis this?", "漢字 é 123"):
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_offsets_lie_in_the_text(tokenizer):
    text = " the dog</s>cat. 漢 USER:"
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    for (start, end), token in zip(encoded.offset_mapping, encoded.tokens(), strict=True):
        piece = token.replace("▁", "")
        if piece and not piece.startswith("<0x"):
            assert text[start:end].strip() == piece


def test_a_missing_legacy_entry_means_legacy(tmp_path):
    assert differing(load_tokenizer(copy_llama(tmp_path, legacy=None)), legacy=True) == []


def test_missing_entries_mean_what_they_meant(tmp_path):
    tokenizer = load_tokenizer(copy_llama(tmp_path, add_bos_token=None, add_eos_token=None))
    assert differing(tokenizer, legacy=False) == []


def test_entries_about_the_ends_are_followed(tmp_path):
    tokenizer = load_tokenizer(copy_llama(tmp_path, add_bos_token=False, add_eos_token=True))
    assert tokenizer("a").input_ids == [300, 2]


def test_extra_special_tokens_are_kept(tmp_path):
    end = {"content": "<|im_end|>", "special": True, "normalized": False, "lstrip": False, "rstrip": False}
    settings = json.loads((LLAMA / "tokenizer_config.json").read_text())
    added = settings["added_tokens_decoder"] | {"700": end | {"single_word": False}}
    folder = copy_llama(tmp_path / "source", added_tokens_decoder=added, additional_special_tokens=["<|im_end|>"])
    tokenizer = load_tokenizer(folder)
    tokenizer.save_pretrained(tmp_path / "saved")
    for each in (tokenizer, load_tokenizer(tmp_path / "saved")):
        assert each("a<|im_end|>").input_ids == [1, 300, 700]
        assert each.decode([300, 700], skip_special_tokens=True) == "a"
        assert sorted(each.all_special_tokens) == ["</s>", "<s>", "<unk>", "<|im_end|>"]


@pytest.mark.parametrize("entries", [{}, {"additional_special_tokens": ["<box>", "</box>"]}])
def test_added_tokens_of_old_tokenizers(entries, tmp_path):
    """Before transformers 4.34 they stood in added_tokens.json alone."""
    folder = copy_llama(tmp_path / "old", added_tokens_decoder=None, **entries)
    (folder / "added_tokens.json").write_text('{"<box>": 700, "</box>": 701}')
    tokenizer = load_tokenizer(folder)
    tokenizer.save_pretrained(tmp_path / "saved")
    for each in (tokenizer, load_tokenizer(tmp_path / "saved")):
        assert len(each) == 702 and each("a<box>a</box>").input_ids[:3] == [1, 300, 700]
        assert each.convert_tokens_to_ids(["<box>", "</box>"]) == [700, 701]


@pytest.mark.parametrize("model_type", ["llama", "llava_llama", "llava"])
def test_without_a_declared_class_the_model_type_decides(model_type, tmp_path):
    folder = copy_llama(tmp_path, tokenizer_class=None, config={"model_type": model_type})
    assert differing(load_tokenizer(folder), legacy=False) == []


def test_a_transformers_checkpoint_follows_transformers(tmp_path):
    folder = copy_llama(tmp_path, config={"model_type": "llava", "text_config": {"model_type": "llama"}})
    LlamaTokenizer.from_pretrained(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))
    stock, ours = AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
    assert [ours(case["text"]).input_ids for case in TEXTS] == [stock(case["text"]).input_ids for case in TEXTS]
    assert differing(load_tokenizer(folder, like_slow=True), legacy=False) == []


def test_a_model_without_dummy_prefix_gets_none(tmp_path):
    """Yi's SentencePiece model is one; a legacy slow tokenizer leaves the matter to the model."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat", "a dog and a cat"]),
        model_writer=model,
        model_type="bpe",
        vocab_size=290,
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    folder = copy_llama(tmp_path, legacy=True, added_tokens_decoder={})
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer, reference = load_tokenizer(folder), SentencePieceProcessor(model_proto=model.getvalue())
    for text in ("the cat", " the cat", "  a", "dog\n the"):
        assert tokenizer(text).input_ids == [1, *reference.encode(text)]


@pytest.fixture
def byte_level(tmp_path) -> Path:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["a dog and a cat"], trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>").save_pretrained(tmp_path)
    return tmp_path


def test_byte_level_tokenizers_are_left_alone(byte_level):
    ours, stock = load_tokenizer(byte_level), AutoTokenizer.from_pretrained(byte_level)
    assert ours.backend_tokenizer.to_str() == stock.backend_tokenizer.to_str()
    with pytest.raises(ValueError, match=r"tokenizer\.model"):
        load_tokenizer(byte_level, like_slow=True)


def test_broken_settings_name_the_file(tmp_path):
    (copy_llama(tmp_path) / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json"):
        load_tokenizer(tmp_path)


def test_a_folder_without_tokenizer_is_an_error(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match=str(folder)):
            load_tokenizer(folder)
