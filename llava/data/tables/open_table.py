"""What `--data_path` names where it is no JSON file: a dataset of the Hub, files of a table, or a saved dataset."""

from __future__ import annotations

import glob
import logging
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from llava.data.tables.arrow import arrow_file, copied_parquet, saved_dataset
from llava.data.tables.parquet import RecentGroups, num_rows, parquet_file
from llava.data.tables.records import TableRecords

logger = logging.getLogger(__name__)

HUB_GRAMMAR = "hf:OWNER/NAME[/CONFIG][:SPLIT][@REVISION]"
DEFAULT_SPLIT = "train"
_HUB_PREFIX = "hf:"
_HUB_NAME = re.compile(
    r"hf:(?P<name>[^/:@]+/[^/:@]+)(?:/(?P<config>[^:@]+))?(?::(?P<split>[^:@]+))?(?:@(?P<revision>[^:@]+))?"
)
_README = "README.md"  # names configs and splits
_SUFFIXES = (".parquet", ".arrow")
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})")


class HubName(NamedTuple):
    """A split of a dataset on the Hub.

    Attributes:
        name: OWNER/NAME.
        config: None for the only one.
        split: `train` unless another is named.
        revision: A commit, tag or branch; None for the newest.
    """

    name: str
    config: str | None
    split: str
    revision: str | None

    @classmethod
    def parse(cls, text: str) -> HubName:
        """Reads `hf:OWNER/NAME[/CONFIG][:SPLIT][@REVISION]`.

        Raises:
            ValueError: The text has another form.
        """
        found = _HUB_NAME.fullmatch(text)
        if found is None:
            raise ValueError(f"{text} does not name a dataset of the Hub; write {HUB_GRAMMAR}")
        return cls(found["name"], found["config"], found["split"] or DEFAULT_SPLIT, found["revision"])


def is_table(data_path: str | Path) -> bool:
    """Whether `--data_path` names a table: `hf:...`, a folder, or files that end in .parquet or .arrow."""
    text = str(data_path)
    return text.startswith(_HUB_PREFIX) or Path(text).suffix in _SUFFIXES or Path(text).is_dir()


def open_table(data_path: str | Path, cache: str | Path | None = None) -> TableRecords:
    """Opens a table; no image is read, and no copy is written unless `cache` is given.

    Args:
        data_path: `hf:OWNER/NAME[/CONFIG][:SPLIT][@REVISION]`; a parquet or Arrow file, or a pattern of such files; a
            folder of them; or a folder that `Dataset.save_to_disk` wrote.
        cache: Folder for an Arrow copy of parquet files, written once.

    Raises:
        ValueError: There is no such table, or it has no conversations; the message names the file.
    """
    text = str(data_path)
    if text.startswith(_HUB_PREFIX):
        files = _files_on_hub(HubName.parse(text))
    elif (Path(text) / "dataset_dict.json").is_file():
        raise ValueError(f"{text} holds several splits; name the folder of one, such as {Path(text) / DEFAULT_SPLIT}")
    elif (Path(text) / "state.json").is_file():
        return TableRecords([saved_dataset(Path(text))])
    elif Path(text).is_dir():
        files = _files_in_folder(Path(text), None, DEFAULT_SPLIT)
    else:
        matching = glob.glob(text, recursive=True)  # noqa: PTH207 (pathlib takes no absolute pattern)
        files = [Path(text)] if Path(text).is_file() else [Path(name) for name in sorted(matching)]
        if not files:
            raise ValueError(f"{text}: there is no such file")
    if _suffix_of(text, [file.name for file in files]) == ".arrow":
        return TableRecords([arrow_file(file) for file in files])
    recent = RecentGroups()
    if cache is None:
        return TableRecords([parquet_file(file, recent) for file in files])
    # One by one: their columns may differ. `datasets` copies no file without rows.
    return TableRecords(
        [copied_parquet(file, Path(cache)) if num_rows(file) else parquet_file(file, recent) for file in files]
    )


def _suffix_of(place: str, names: list[str]) -> str:
    """The suffix that all files of a table have.

    Raises:
        ValueError: They have several, or one that is not read.
    """
    suffixes = sorted({Path(name).suffix for name in names})
    if len(suffixes) != 1 or suffixes[0] not in _SUFFIXES:
        raise ValueError(f"{place}: its files end in {', '.join(suffixes)}, not in {' or '.join(_SUFFIXES)}")
    return suffixes[0]


def _files_in_folder(folder: Path, config: str | None, split: str) -> list[Path]:
    """A split's files in a folder, by the rules of `datasets`: its README, else the names of files and folders.

    Raises:
        ValueError: There is no such config or split, or a file of it is missing.
    """
    if glob.has_magic(str(folder.resolve())):  # `datasets` would take another folder that the pattern fits
        pattern = f"{glob.escape(str(folder))}/**/{split}-*.parquet"
        raise ValueError(f"{folder}: `datasets` reads *, ? and [ as a pattern; rename it, or name files: {pattern}")
    names = [file.name for file in folder.rglob("*") if file.suffix in _SUFFIXES]
    if names and not (folder / _README).is_file():  # `datasets` would leave one suffix out; a README may name its files
        _suffix_of(str(folder), names)
    files = [Path(name) for name in _data_files(str(folder.resolve()), config, split)]
    _check_shards(files)
    return files


def _files_on_hub(wanted: HubName) -> list[Path]:
    """A split's files in the Hub's cache, downloaded where they are missing.

    Raises:
        ValueError: The Hub has no such dataset, config or split, or gives no answer.
    """
    from huggingface_hub import HfFileSystem, constants, snapshot_download

    def snapshot(revision: str | None, **options: Any) -> Path:
        return Path(snapshot_download(wanted.name, repo_type="dataset", revision=revision, **options))

    try:
        if constants.HF_HUB_OFFLINE:
            return _files_in_cache(snapshot(wanted.revision, allow_patterns=[_README]), wanted)
        found = _data_files(wanted.name, wanted.config, wanted.split, wanted.revision)
        _suffix_of(wanted.name, found)  # before anything large is downloaded
        resolved: list[Any] = [HfFileSystem().resolve_path(name) for name in found]
        names = [file.path_in_repo for file in resolved]
        patterns = [_README, *(glob.escape(name) for name in names)]
        folder = snapshot(resolved[0].revision, allow_patterns=patterns)
    except ValueError:  # says already what is wrong
        raise
    except Exception as error:  # of the disk, huggingface_hub, and its HTTP library
        reason = str(error).splitlines()[0]
        raise ValueError(f"hf:{wanted.name}: {reason} (HF_HUB_OFFLINE=1 takes what is in the Hub's cache)") from error
    logger.info("%s: %d files of revision %s", wanted.name, len(names), folder.name)
    return [folder / name for name in names]


def _files_in_cache(snapshot: Path, wanted: HubName) -> list[Path]:
    """A split's files of a dataset whose files are all in the Hub's cache.

    Raises:
        ValueError: Some are missing: those of another config suffice that `datasets` finds none.
    """
    try:
        return _files_in_folder(snapshot, wanted.config, wanted.split)
    except ValueError as error:
        pattern = f"{glob.escape(str(snapshot))}/**/*.parquet"
        raise ValueError(f"{error}; offline, name the files themselves, such as {pattern}") from error


def _data_files(place: str, config: str | None, split: str, revision: str | None = None) -> list[str]:
    """The files of a split, as `datasets` finds them; nothing is downloaded but the README.

    Raises:
        ValueError: There is no such config or split, or no file that is known.
    """
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetNotFoundError
    from yaml import YAMLError

    try:
        with tempfile.TemporaryDirectory() as locks:  # the builder only leaves an empty lock file there
            builder = load_dataset_builder(place, config, revision=revision, cache_dir=locks)
    except (YAMLError, TypeError, AttributeError, KeyError) as error:  # what a wrong README makes of the library
        reason = " ".join(str(error).split())
        raise ValueError(f"{place}/{_README}: its YAML header does not name data files rightly ({reason})") from error
    except (DatasetNotFoundError, ValueError, FileNotFoundError, RuntimeError) as error:  # RuntimeError: a script
        reason = " ".join(str(error).strip().splitlines()[:2])  # the second line lists the configs
        raise ValueError(f"{place}: {reason}") from error
    splits: dict[str, list[str]] = {str(name): files for name, files in (builder.config.data_files or {}).items()}
    if split not in splits:
        there = ", ".join(splits) or "none"
        advice = _advice(next(iter(splits.values()), [])) if Path(place).is_dir() else f"Name one as {HUB_GRAMMAR}"
        raise ValueError(f"{place} has no split {split!r}, but: {there}. {advice}")
    return splits[split]


def _advice(files: list[str]) -> str:
    """How to name the files of a split in a local folder."""
    if not files:
        return "Name files as FOLDER/*.parquet"
    file = Path(files[0])
    shard = _SHARD.fullmatch(str(file.with_suffix("")))
    return f"Name files, such as {glob.escape(shard['stem']) + '-*' + file.suffix if shard else file}"


def _check_shards(files: list[Path]) -> None:
    """Refuses a split of which some files have not arrived: half of the data would be trained on without a word.

    Raises:
        ValueError: A file `NAME-00001-of-00003` is missing.
    """
    there = {str(file.with_suffix("")) for file in files}
    for file in files:
        shard = _SHARD.fullmatch(str(file.with_suffix("")))
        for number in range(int(shard["count"]) if shard else 0):
            assert shard is not None
            name = f"{shard['stem']}-{number:05d}-of-{shard['count']}"
            if name not in there:
                raise ValueError(f"{name}{file.suffix} is missing; download it, or name those you have by a pattern")
