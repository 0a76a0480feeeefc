"""Pieces of an answer add up to what `Inference` makes of its tokens, whatever these are."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from llava.inference import Inference
from llava.serve.api.writing import Writing


def said(writing: Writing, tokens: Sequence[int]) -> list[str]:
    """What is given away, token by token, the rest last."""
    pieces = []
    for token in tokens:
        writing.take(token)
        if writing.reason is not None:
            break
        pieces.append(writing.piece())
    return [*pieces, writing.rest()]


def drawn(inference: Inference, seed: int, number: int = 40) -> list[int]:
    """Tokens at random; a third of them single bytes, of which most sequences are no characters."""
    draw, bytes_ = (
        random.Random(seed),
        inference.tokenizer.convert_tokens_to_ids(["<0x41>", "<0xE2>", "<0x82>", "<0xAC>"]),
    )
    vocabulary = range(3, inference.model.config.get_text_config().vocab_size - 1)
    return [draw.choice(bytes_) if draw.random() < 0.33 else draw.choice(vocabulary) for _ in range(number)]


@pytest.mark.parametrize("seed", range(40))
def test_pieces_are_the_answer(seed: int, alone: Inference) -> None:
    tokens = drawn(alone, seed)
    writing = Writing(alone, 100)
    pieces = said(writing, tokens)
    assert "".join(pieces) == alone.decode(alone.until_end(tokens)) == writing.text()
    assert sum(map(bool, pieces)) > 5


@pytest.mark.parametrize("seed", range(20))
def test_nothing_behind_a_stop_is_given_away_and_nothing_of_it(seed: int, alone: Inference) -> None:
    tokens = drawn(alone, seed)
    whole = alone.decode(tokens)
    place = len(whole) // 2
    stop = whole[place : place + 4]
    writing = Writing(alone, 100, [stop, whole[-3:]])
    first = min(whole.index(stop), whole.index(whole[-3:]))
    assert "".join(said(writing, tokens)) == whole[:first].strip()
    assert writing.reason == "stop" and len(writing.ids) < len(tokens)


@pytest.mark.parametrize(
    ("stop", "before"), [("three\n", "one two"), ("two ", "one"), ("\nfour", "one two three"), (" ", "one")]
)
def test_a_stop_that_ends_or_begins_with_space_is_no_part_of_the_answer(
    stop: str, before: str, alone: Inference
) -> None:
    tokens = alone.tokenizer("one two three\nfour five", add_special_tokens=False).input_ids
    writing = Writing(alone, 100, [stop])
    assert "".join(said(writing, tokens)) == writing.text() == before
    assert writing.reason == "stop"


def test_what_is_made_again_is_given_once(alone: Inference) -> None:
    tokens = drawn(alone, 1)
    writing = Writing(alone, 100)
    before = [writing.take(token) or writing.piece() for token in tokens[:25]]
    assert any(before)
    writing.again()
    assert "".join(before) + "".join(said(writing, tokens)) == alone.decode(alone.until_end(tokens))


def test_an_answer_ends_at_the_end_token_or_at_its_length(alone: Inference) -> None:
    end = alone.tokenizer.eos_token_id
    writing = Writing(alone, 3)
    said(writing, [5, end, 6])
    assert (writing.reason, writing.ids) == ("stop", [5])
    writing = Writing(alone, 2)
    said(writing, [5, 6, 7])
    assert (writing.reason, writing.ids) == ("length", [5, 6])
