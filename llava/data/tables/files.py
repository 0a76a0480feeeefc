"""The rows of one table file: what columns they have, and what is read of them at once and what later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COUNT = "number of images"  # a column of our own: images that a row holds
TEXT_COLUMNS = ("conversations", "id", "data_source")
_CONVERSATIONS = TEXT_COLUMNS[0]
_IMAGE_COLUMNS = ("image", "images")


@dataclass(frozen=True)
class TableFile:
    """A file of a table, or a dataset that lies in several files.

    Attributes:
        name: Its path, for messages.
        sizes: Bytes of each file.
        mtime_ns: Time of the latest change.
        text: Arrow table with `conversations`; `id`, `data_source` and `image` (paths) if there are such columns; and
            `COUNT` if the table holds images.
        several_images: Whether a row may hold several.
        image_of: The Arrow scalar of a row's images.
    """

    name: str
    sizes: tuple[int, ...]
    mtime_ns: int
    text: Any
    several_images: bool = False
    image_of: Callable[[int], Any] | None = None

    def __len__(self) -> int:
        rows: int = self.text.num_rows
        return rows

    def image_bytes(self, row: int, number: int) -> bytes | None:
        """An encoded image; None if the row has only a name in its place.

        Raises:
            OSError: The file cannot be read.
        """
        from pyarrow import ArrowException, StructScalar

        assert self.image_of is not None
        try:
            image = self.image_of(row)
        except ArrowException as error:
            raise OSError(f"the table is damaged: {error}") from error
        if self.several_images:
            image = image.values[number]
        if image.is_valid and isinstance(image, StructScalar):
            image = image["bytes"]
        content: bytes | None = image.as_py()
        return content


def image_column(path: Path, schema: Any) -> str | None:
    """The column that holds images or names them: `image` or `images`, the one that is not all null; or none.

    Raises:
        ValueError: The table has no conversations, or its images are of another form or in both columns, or there are
            two columns of a name.
    """
    from pyarrow import types

    if _CONVERSATIONS not in schema.names:
        advice = "; write it as JSON, and `llava convert` that" if "messages" in schema.names else ""
        raise ValueError(f"{path} has no column {_CONVERSATIONS!r}; it has {', '.join(schema.names) or 'none'}{advice}")
    for name in (*TEXT_COLUMNS, *_IMAGE_COLUMNS):
        if schema.names.count(name) > 1:
            raise ValueError(f"{path} has {schema.names.count(name)} columns {name!r}; keep one")
    kind = schema.field(_CONVERSATIONS).type
    turn = kind.value_type if is_list(kind) else None
    if turn is None or not types.is_struct(turn) or min(map(turn.get_field_index, ("from", "value"))) < 0:
        raise ValueError(f"{path}: column {_CONVERSATIONS!r} must be a list of {{from, value}}, and is {kind}")
    there = [name for name in _IMAGE_COLUMNS if name in schema.names]
    filled = [name for name in there if not types.is_null(_kind_of_one(schema.field(name).type))]
    if len(filled) > 1:
        raise ValueError(f"{path} has both columns 'image' and 'images'; drop the one that is not to be trained on")
    if not filled:
        return there[0] if there else None
    column = filled[0]
    kind = schema.field(column).type
    one = _kind_of_one(kind)
    has_bytes = _is_stored(one) and (not types.is_struct(one) or one.get_field_index("bytes") >= 0)
    if not (has_bytes or _is_text(one) or (types.is_dictionary(one) and _is_text(one.value_type))):
        raise ValueError(f"{path}: column {column!r} must hold images ({{bytes, path}}) or their paths, and is {kind}")
    return column


def _kind_of_one(kind: Any) -> Any:
    """The Arrow type of one image, where a row may hold a list of them."""
    return kind.value_type if is_list(kind) else kind


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def is_list(kind: Any) -> bool:
    """Whether an Arrow type is that of lists."""
    from pyarrow import types

    return kind is not None and (types.is_list(kind) or types.is_large_list(kind))


def _is_stored(kind: Any) -> bool:
    """Whether a type is that of an encoded image; without its bytes, which need not have been read, it is a path."""
    from pyarrow import types

    is_bytes = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return types.is_struct(kind) or is_bytes


def text_of(table: Any, column: str | None) -> Any:
    """A table without its images: these are counted, or named where the table names files."""
    from pyarrow import compute

    if column is None:
        return table
    images = table[column]
    rest = table.drop_columns([column])
    if not _is_stored(_kind_of_one(images.type)):
        return rest.append_column("image", images)
    if is_list(images.type):
        counts = compute.fill_null(compute.list_value_length(images).cast("int32"), 0)
    else:
        counts = images.is_valid().cast("int32")
    return rest.append_column(COUNT, counts)
