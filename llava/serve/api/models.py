"""What a request calls the model: its name, or its name and a budget, `NAME@visionzip:54+10`."""

from __future__ import annotations

import time
from typing import Any

from llava.model.configuration import CompressionConfig, as_compression
from llava.serve.api.errors import ApiError, invalid

_MARK = "@"
_LONGEST_BUDGET = 200


class ModelNames:
    """The one model that is served, under every budget that it takes.

    Attributes:
        name: What clients call it.
        default: The budget where a client names none; None keeps every token.
    """

    def __init__(self, name: str, default: CompressionConfig | None) -> None:
        """Takes the name and the budget that the model has."""
        self.name = name
        self.default = default
        self._created = int(time.time())

    def budget_of(self, model: str) -> CompressionConfig | None:
        """The budget that a request asks for.

        Raises:
            ApiError: There is no such model, or what is behind `@` is no budget.
        """
        if model == self.name:
            return self.default
        name, _, budget = model.rpartition(_MARK)
        if name != self.name:
            raise ApiError(
                404,
                f"there is no model {model[:100]!r}; this server has {self.name!r}, and {self.name}{_MARK}BUDGET",
                param="model",
                code="model_not_found",
            )
        if len(budget) > _LONGEST_BUDGET:
            raise invalid(f"a budget has at most {_LONGEST_BUDGET} characters, got {len(budget)}", "model")
        try:
            return as_compression(budget)
        except ValueError as error:
            raise invalid(str(error), "model") from None

    def listed(self) -> dict[str, Any]:
        """The reply to `GET /v1/models`: the name alone, and with its budget."""
        names = [self.name, self.with_budget(self.default), self.with_budget(None)]
        return {"object": "list", "data": [self.described(name) for name in dict.fromkeys(names)]}

    def described(self, model: str) -> dict[str, Any]:
        """The reply to `GET /v1/models/NAME`.

        Raises:
            ApiError: As `budget_of`.
        """
        budget = self.budget_of(model)
        return {
            "id": model,
            "object": "model",
            "created": self._created,
            "owned_by": "llava-visionzip",
            "compression": None if budget is None else str(budget),
        }

    def with_budget(self, budget: CompressionConfig | None) -> str:
        """A name that says the budget too."""
        return f"{self.name}{_MARK}{'none' if budget is None else budget}"
