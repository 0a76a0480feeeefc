"""A model with a method inside its language model is not trained: one line, before any data is read."""

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
