"""Sends a folder to a repository on the Hub, in one commit; what is there already is not sent again.

Large files go into the Hub's store first and become visible with the commit, so nobody ever sees half a release. A cut
upload is made again by the same call: the store keeps the files that it had got.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from llava.hub.publish.release_files import ReleaseFile, is_weights

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

_MAIN = "main"


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
    folder: Path,
    files: Sequence[ReleaseFile],
    repo: str,
    *,
    private: bool = False,
    revision: str = _MAIN,
    message: str | None = None,
) -> Uploaded:
    """Makes the repository and the branch if need be, and sends what differs.

    Weights of an earlier release that are not in this one are deleted: a loader might take them for its own.

    The token is that of `HF_TOKEN` or of `hf auth login`; it is in no message.

    Args:
        folder: That is released.
        files: Of the folder, from `list_files`.
        repo: ORG/NAME.
        private: A new repository is private; one that is public already is refused.
        revision: Branch.
        message: Of the commit.

    Raises:
        PushError: The Hub refuses, cannot be reached, or has other files afterwards than were sent.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _errors_in_one_line(repo):
        _prepare(api, repo, private=private, revision=revision)
        before = api.verify_repo_checksums(repo, revision=revision, local_dir=folder)
        changed = {*before.extra_paths, *(each["path"] for each in before.mismatches)}
        new = [file for file in files if file.name in changed]
        names = {file.name for file in files}
        kept = sorted(names - changed)
        stale = _stale_weights(names, before.missing_paths)
        others = sorted(set(before.missing_paths) - set(stale) - {".gitattributes"})
        if not new and not stale:
            return Uploaded(f"{api.endpoint}/{repo}/tree/{revision}", [], kept, others, [])
        commit = _commit(api, repo, new, stale, revision=revision, message=message)
        tree = api.list_repo_tree(repo, recursive=True, revision=commit.oid)
        there = {entry.path: getattr(entry, "size", None) for entry in tree}
        if left := sorted(set(stale) & set(there)):
            raise PushError(f"{repo} still has weights of an earlier release: {', '.join(left)}; run push again")
        if wrong := [file.name for file in files if there.get(file.name) != file.size]:
            raise PushError(f"{repo} has not, or of another size, after the commit: {', '.join(wrong)}; run push again")
    return Uploaded(str(commit.commit_url), sorted(file.name for file in new), kept, others, stale)


def _commit(
    api: HfApi, repo: str, new: Sequence[ReleaseFile], stale: Sequence[str], *, revision: str, message: str | None
) -> CommitInfo:
    """Sends files and deletes others in one commit; `upload_folder` makes several of a large folder."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    over_lfs = not _has_xet(api, repo, revision)
    with ExitStack() as opened:
        operations: list[Any] = [CommitOperationDelete(name) for name in stale]
        for file in new:
            # huggingface_hub takes Xet wherever its client is installed, except for open files.
            content: Any = opened.enter_context(file.path.open("rb")) if over_lfs else file.path
            operations.append(CommitOperationAdd(file.name, content))
        title = message or f"Release {repo.rpartition('/')[2]}"
        return api.create_commit(repo, operations, commit_message=title, revision=revision)


def _stale_weights(names: Set[str], there: Iterable[str]) -> list[str]:
    """Weights on the Hub that are not released, in the folders of a release: those that its loader might read."""
    folders = {name.rpartition("/")[0] for name in names}
    return sorted(
        name for name in there if name not in names and is_weights(name) and name.rpartition("/")[0] in folders
    )


def _prepare(api: HfApi, repo: str, *, private: bool, revision: str) -> None:
    if not api.repo_exists(repo):
        api.create_repo(repo, private=private or None, exist_ok=True)
    if private and not api.model_info(repo).private:
        raise PushError(f"{repo} is public, and --private was asked for; make it private on its page first")
    if revision != _MAIN:
        api.create_branch(repo, branch=revision, exist_ok=True)


def _has_xet(api: HfApi, repo: str, revision: str) -> bool:
    """Whether the server gives the Xet token without which huggingface_hub's Xet client cannot send."""
    from huggingface_hub.utils import build_hf_headers, get_session

    url = f"{api.endpoint}/api/models/{repo}/xet-write-token/{quote(revision, safe='')}"
    response = get_session().get(url, headers=build_hf_headers())
    return bool(response.status_code != 404)


@contextmanager
def _errors_in_one_line(repo: str) -> Iterator[None]:
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
