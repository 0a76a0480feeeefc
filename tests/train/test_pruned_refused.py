"""Methods inside the language model and adaptive budgets are not trained: one line, before any data is read."""

from __future__ import annotations

import pytest

from llava.train.arguments import parse_arguments
from llava.train.run import prepare


@pytest.mark.parametrize("compression", ["fastv:300,layer=1", "visionzip:54+10|fastv:40,layer=1"])
def test_training_is_refused(flags, compression):
    arguments = parse_arguments(flags(stage="projector", compression=compression))
    with pytest.raises(ValueError, match=r"^fastv prunes inside the language model, and no gradient flows") as refused:
        prepare(arguments)
    assert "train with --compression none" in str(refused.value) and "\n" not in str(refused.value)


def test_training_with_an_adaptive_budget_is_refused(flags):
    arguments = parse_arguments(flags(stage="projector", compression="coverage:40,adaptive=gain,threshold=0.01"))
    with pytest.raises(
        ValueError, match=r"adaptive budgets are for answers; train with a fixed one, such as"
    ) as refused:
        prepare(arguments)
    assert str(refused.value).endswith("--compression coverage:40") and "\n" not in str(refused.value)
