"""Sends a folder to a repository on the Hub, in one commit; what is there already is not sent again.

Large files go into the Hub's store first and become visible with the commit, so nobody ever sees half a release. A cut
upload is made again by the same call: the store keeps the files that it had got.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llava.hub.publish.release_files import ReleaseFile, is_weights

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_MAIN = "main"
_CHUNK = 2**20


class PushError(Exception):
    """The Hub did not take a release; the message says why and what to do."""


@dataclass(frozen=True)
class Uploaded:
    """What came of it.

    Attributes:
        url: Of the commit, or of the repository if nothing was to be sent.
        sent: Names of the files in the commit.
        kept: Those that were there already.
        others: Those on the Hub that are not in the folder; they stay.
        deleted: Weights on the Hub that are not in the folder; they went with the commit.
    """

    url: str
    sent: list[str]
    kept: list[str]
    others: list[str]
    deleted: list[str]


def upload(
    files: Sequence[ReleaseFile], repo: str, *, private: bool = False, revision: str = _MAIN, message: str | None = None
) -> Uploaded:
    """Makes the repository and the branch if need be, and sends what differs.

    Weights of an earlier release that are not in this one are deleted: a loader might take them for its own.

    The token is that of `HF_TOKEN` or of `hf auth login`; it is in no message.

    Args:
        files: From `list_files`.
        repo: ORG/NAME.
        private: A new repository is private; one that is public already is refused.
        revision: Branch.
        message: Of the commit.

    Raises:
        PushError: The Hub refuses, cannot be reached, or has other files afterwards than were sent.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    with _told_plainly(repo):
        _prepare(api, repo, private=private, revision=revision)
        there = _files_there(api, repo, revision)
        new = [file for file in files if not _is_same(file, there.get(file.name))]
        names = {file.name for file in files}
        kept = sorted(names - {file.name for file in new})
        stale = _stale_weights(names, there)
        others = sorted(set(there) - names - set(stale) - {".gitattributes"})
        if not new and not stale:
            return Uploaded(f"{api.endpoint}/{repo}/tree/{revision}", [], kept, others, [])
        with ExitStack() as opened:
            over_lfs = not _has_xet(api, repo, revision)
            operations: list[Any] = [CommitOperationDelete(name) for name in stale]
            for file in new:
                content: Any = file.path
                if over_lfs:  # huggingface_hub takes Xet wherever its client is installed, except for open files
                    content = opened.enter_context(io.BufferedReader(io.FileIO(file.path)))
                operations.append(CommitOperationAdd(file.name, content))
            title = message or f"Release {repo.rpartition('/')[2]}"
            commit = api.create_commit(repo, operations, commit_message=title, revision=revision)
        _compare(files, stale, _files_there(api, repo, revision), repo)
    return Uploaded(str(commit.commit_url), sorted(file.name for file in new), kept, others, stale)


def _stale_weights(names: Set[str], there: Iterable[str]) -> list[str]:
    """Weights on the Hub that are not released, in the folders of a release: those that its loader might read."""
    folders = {name.rpartition("/")[0] for name in names}
    return sorted(
        name for name in there if name not in names and is_weights(name) and name.rpartition("/")[0] in folders
    )


def _prepare(api: HfApi, repo: str, *, private: bool, revision: str) -> None:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        is_private = api.model_info(repo).private
    except RepositoryNotFoundError:
        api.create_repo(repo, private=private or None, exist_ok=True)
        is_private = api.model_info(repo).private
    if private and not is_private:
        raise PushError(f"{repo} is public, and --private was asked for; make it private on its page first")
    if revision != _MAIN:
        api.create_branch(repo, branch=revision, exist_ok=True)


def _files_there(api: HfApi, repo: str, revision: str) -> dict[str, Any]:
    tree = api.list_repo_tree(repo, recursive=True, revision=revision)
    return {entry.path: entry for entry in tree if hasattr(entry, "blob_id")}


def _is_same(file: ReleaseFile, there: Any) -> bool:
    """Whether a file on the Hub has the same bytes: by SHA-256 in its store, by git's hash elsewhere."""
    if there is None or there.size != file.size:
        return False
    if there.lfs is not None:
        return bool(_digest(file, hashlib.sha256()) == there.lfs.sha256)
    return bool(_digest(file, hashlib.sha1(f"blob {file.size}\0".encode())) == there.blob_id)


def _digest(file: ReleaseFile, digest: Any) -> str:
    with file.path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return str(digest.hexdigest())


def _has_xet(api: HfApi, repo: str, revision: str) -> bool:
    """Whether the server gives the Xet token without which huggingface_hub's Xet client cannot send."""
    from urllib.parse import quote

    from huggingface_hub.utils import build_hf_headers, get_session

    url = f"{api.endpoint}/api/models/{repo}/xet-write-token/{quote(revision, safe='')}"
    response = get_session().get(url, headers=build_hf_headers())
    return bool(response.status_code != 404)


def _compare(files: Sequence[ReleaseFile], stale: Sequence[str], there: dict[str, Any], repo: str) -> None:
    if left := sorted(set(stale) & set(there)):
        raise PushError(f"{repo} still has weights of an earlier release: {', '.join(left)}; run push again")
    wrong = [file.name for file in files if file.name not in there or there[file.name].size != file.size]
    if wrong:
        raise PushError(f"{repo} has not, or of another size, after the commit: {', '.join(wrong)}; run push again")


@contextmanager
def _told_plainly(repo: str) -> Iterator[None]:
    """Turns huggingface_hub's errors and those of the network into a `PushError` of one line."""
    try:
        yield
    except PushError:
        raise
    except Exception as error:
        raise PushError(_explain(error, repo)) from error


def _explain(error: BaseException, repo: str) -> str:
    cause = error
    while cause.__cause__ is not None and getattr(cause, "response", None) is None:
        cause = cause.__cause__
    status = getattr(getattr(cause, "response", None), "status_code", None)
    said = str(error).strip().partition("\n")[0]
    what = "what was sent is kept; run the same command again"
    advice = {
        401: "the Hub does not know the token: set HF_TOKEN, or log in with `hf auth login`",
        403: f"the token may not write to {repo}: make one with write access, and check the organisation",
        404: f"there is no {repo}, or the token may not see it",
        413: "a file is larger than the Hub takes",
    }
    if type(error) is ValueError:  # huggingface_hub's own checks; its HTTP errors are of other types
        return " ".join(str(error).split())
    if status in advice:
        return f"{advice[status]} (HTTP {status})"
    return f"{said or type(error).__name__}{f' (HTTP {status})' if status else ''}; {what}"
