"""Whether the images that a data set names are there, looked up before hours are spent on the others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tqdm.auto import tqdm

from llava.data.dataset import LlavaDataset, SampleError
from llava.data.open_records import names_files
from llava.data.records import images_of

_THREADS = 16  # a look-up waits for the file system


def check_images_exist(dataset: LlavaDataset, *, is_quiet: bool = False) -> None:
    """Looks at every image file, without opening it. Images that lie in a table are there.

    Args:
        dataset: Any number of entries.
        is_quiet: Show no progress bar.

    Raises:
        SampleError: One is missing or leaves the folder; the first one is named, and how many are missing.
    """
    if not names_files(dataset.records):
        return
    first_user = {
        name: record for record in reversed(dataset.records) for name in images_of(record) if isinstance(name, str)
    }
    names = list(first_user)
    with ThreadPoolExecutor(_THREADS) as threads:
        there = threads.map(lambda name: _is_there(dataset, name), names)
        bar = tqdm(zip(names, there, strict=True), total=len(names), desc="images there", disable=is_quiet, leave=False)
        missing = [name for name, is_there in bar if not is_there]
    if missing:
        others = f", and {len(missing) - 1} more are missing" if len(missing) > 1 else ""
        path, user = dataset.path_of(missing[-1]), first_user[missing[-1]].get("id")
        raise SampleError(f"image {path} of sample {user!r} does not exist{others}", "missing image")


def _is_there(dataset: LlavaDataset, name: str) -> bool:
    try:
        return dataset.path_of(name).is_file()
    except OSError:  # a name that no disk takes
        return False
