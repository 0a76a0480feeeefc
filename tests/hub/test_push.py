"""Publishing: a release that lacks something is refused, and what is sent arrives, however a connection breaks."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llava.hub.card.make_card import make_card
from llava.hub.publish.checks import find_problems
from llava.hub.publish.leaks import find_leaks
from llava.hub.publish.release_files import list_files
from llava.hub.push import main
from tests.hub.conftest import COMPLETE, ROOT, TINY, push
from tests.hub.hub_server import READER, WRITER, Repository, serving
from tests.hub.test_leaks import X


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A local Hub, which huggingface_hub takes for the Hub as it does with HF_ENDPOINT."""
    with serving() as state:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", state.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no_token"))
        monkeypatch.setenv("HF_TOKEN", WRITER)
        yield state


def content_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.path.read_bytes() for file in list_files(folder)}


def test_a_path_may_be_allowed_and_a_secret_never(release, capsys):
    (release / "notes.md").write_text("in /tmp/x\nin /tmp/y\n")
    assert push(release, "--dry-run", "--allow", "notes.md:1") == 1
    error = capsys.readouterr().err
    assert "refused: notes.md, line 2: an absolute path: /tmp/y (if it is harmless: --allow notes.md:2)" in error
    assert "notes.md, line 1" not in error
    assert push(release, "--dry-run", "--allow", "notes.md:1", "--allow", "notes.md:2") == 0
    (release / "notes.md").write_text("hf_" + X[:34])
    capsys.readouterr()
    assert push(release, "--dry-run", "--allow", "notes.md:1") == 1
    error = capsys.readouterr().err
    assert "notes.md, line 1: a Hugging Face token\n" in error
    assert "--allow notes.md:1: no absolute path is there" in error


def test_published_checkpoints_and_our_own_pass():
    """The tiny model, and every text file of the recorded checkpoints: no false alarm."""
    folders = [TINY, *sorted((ROOT / "tests" / "fixtures" / "oracle").glob("tiny-*"))]
    for folder in folders:
        for file in list_files(folder):
            assert find_leaks(file) == [], file.path


def test_a_card_that_lacks_something_is_refused(release):
    text = (release / "README.md").read_text()
    (release / "README.md").write_text(text.replace("license: apache-2.0\n", "").replace("me/tiny", "ORG/NAME"))
    problems = " ".join(find_problems(release, list_files(release)))
    assert "README.md: license: give --license" in problems and "README.md: repository:" in problems
    (release / "README.md").write_text("---\nlicense: [\n---\n")
    assert "not valid YAML" in " ".join(find_problems(release, list_files(release)))
    (release / "README.md").unlink()
    assert "README.md: there is none" in " ".join(find_problems(release, list_files(release)))


def test_a_checkpoint_that_does_not_load_is_refused(release):
    tensors = (release / "model.safetensors").read_bytes()
    (release / "model.safetensors").write_bytes(tensors[:-1000])
    (problem,) = find_problems(release, list_files(release))
    assert problem.startswith("the checkpoint does not load: ")


def test_a_projector_must_name_its_base_on_the_hub(run):
    make_card(run, publication=COMPLETE)
    problems = find_problems(run, list_files(run))
    assert any("training_args.json, line " in problem and "absolute path" in problem for problem in problems)
    for name in ("training_args.json", "trainer_state.json"):
        (run / name).unlink()
    entries = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**entries, "base_model_name_or_path": "checkpoints/mine/7b"}))
    (problem,) = find_problems(run, list_files(run))
    assert problem.startswith("config.json: base_model_name_or_path 'checkpoints/mine/7b' is no name on the Hub")


def test_what_is_refused_is_not_sent(release, hub, capsys):
    (release / "notes.txt").write_text("hf_" + X[:34])
    assert push(release) == 1
    said = capsys.readouterr()
    assert "model.safetensors" in said.out  # the list comes first
    assert "refused: notes.txt, line 1: a Hugging Face token" in said.err and "nothing was sent" in said.err
    assert hub.requests == []


def test_a_dry_run_asks_nobody(release, hub, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert push(release, "--dry-run") == 0
    said = capsys.readouterr().out
    size = (release / "model.safetensors").stat().st_size
    assert f"{size:,}  model.safetensors" in said and "nothing was sent (--dry-run)" in said
    assert hub.requests == []


def test_a_card_of_another_repository_is_refused(release, capsys):
    assert main([str(release), "--repo", "other/name", "--dry-run"]) == 1
    error = capsys.readouterr().err
    assert re.search(r"refused: README.md, line \d+: it loads me/tiny, and --repo is other/name", error)
    text = (release / "README.md").read_text()
    compared = '\n```python\nLlavaForConditionalGeneration.from_pretrained("else/where")\n```\n'
    (release / "README.md").write_text(text + compared)  # what it is compared with
    assert find_problems(release, list_files(release), repo="me/tiny") == []


@pytest.fixture
def llava_release(tmp_path, oracle_dir) -> Path:
    """LLaVA's format, whose vision tower is named by the config alone."""
    folder = Path(shutil.copytree(oracle_dir / "tiny-llava-v1.5", tmp_path / "llava"))
    make_card(folder, publication=COMPLETE)
    return folder


def test_a_vision_tower_must_be_inside_or_on_the_hub(llava_release, tmp_path, oracle_dir, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(oracle_dir / "tiny-clip-vit-l14-336", tmp_path / "checkpoints" / "clip")
    config = json.loads((llava_release / "config.json").read_text())
    for named in ("checkpoints/clip", "checkpoints/gone/clip", "../checkpoints/clip"):
        (llava_release / "config.json").write_text(json.dumps({**config, "mm_vision_tower": named}))
        (problem,) = find_problems(llava_release, list_files(llava_release))
        assert problem.startswith(f"config.json: mm_vision_tower '{named}' is no name on the Hub")
    shutil.copytree(oracle_dir / "tiny-clip-vit-l14-336", llava_release / "clip")
    (llava_release / "config.json").write_text(json.dumps({**config, "mm_vision_tower": "clip"}))
    assert find_problems(llava_release, list_files(llava_release)) == []


def test_links_to_folders_are_refused_and_gits_folders_left_out(release, tmp_path, capsys):
    names = {file.name for file in list_files(release)}
    (release / "sub" / ".git").mkdir(parents=True)
    (release / "sub" / ".git" / "config").write_text("x")
    assert {file.name for file in list_files(release)} == names
    (tmp_path / "outside").mkdir()
    (release / "extra").symlink_to(tmp_path / "outside")
    with pytest.raises(SystemExit, match="release/extra: is a link to a folder, which would not be sent"):
        push(release)


# --- what is sent ---


def test_every_file_arrives_once(release, hub, capsys):
    assert push(release, "--private", "--message", "First release") == 0
    repository = hub.repositories["me/tiny"]
    assert hub.files("me/tiny") == content_of(release)
    assert repository.private and repository.commits == ["First release"]  # one commit: nobody sees half of it
    said = capsys.readouterr()
    assert "sent 7, already there 0: http" in said.out and WRITER not in said.out + said.err

    hub.requests.clear()
    assert push(release) == 0  # again: nothing to do
    assert "sent 0, already there 7" in capsys.readouterr().out
    assert not hub.asked("PUT", "") and not hub.asked("POST", "")

    text = (release / "README.md").read_text()
    (release / "README.md").write_text(text + "\nMore.\n")
    (release / "generation_config.json").unlink()
    assert push(release) == 0
    said = capsys.readouterr().out
    assert "sent 1, already there 5" in said and "left as they are: generation_config.json" in said
    assert not hub.asked("PUT", "") and hub.files("me/tiny")["README.md"].endswith(b"More.\n")


def test_weights_of_an_earlier_release_go(release, hub, capsys):
    shards = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"}
    kept = {"notes.md", "onnx/model.bin"}
    earlier = {name: name.encode() for name in (*shards, *kept)}
    hub.repositories["me/tiny"] = Repository(private=False, branches={"main": earlier})
    assert push(release) == 0
    said = capsys.readouterr().out
    assert f"weights of an earlier release, deleted in the same commit: {', '.join(sorted(shards))}" in said
    assert f"left as they are: {', '.join(sorted(kept))}" in said
    assert set(hub.files("me/tiny")) == set(content_of(release)) | kept
    assert len(hub.repositories["me/tiny"].commits) == 1

    hub.files("me/tiny")["pytorch_model.bin"] = b"old"  # nothing else differs
    assert push(release) == 0 and "pytorch_model.bin" not in hub.files("me/tiny")


def test_large_files_go_in_parts(release, hub):
    hub.part_bytes = 400_000
    hub.failures = [("PUT", "/store/.*/3$", "cut"), ("PUT", "/store/.*/5$", 500)]
    assert push(release) == 0
    assert hub.files("me/tiny") == content_of(release)
    parts = [int(path.rpartition("/")[2]) for path in hub.asked("PUT", "/store/")]
    assert parts == [1, 2, 3, 3, 4, 5, 5, 6, 7]  # what broke is sent again, and only that


def test_a_branch_is_made_and_main_is_left(release, hub):
    assert push(release, "--revision", "v1.0/rc") == 0
    assert hub.files("me/tiny", "v1.0/rc") == content_of(release) and hub.files("me/tiny") == {}
    assert push(release, "--revision", "v1.0/rc") == 0


def test_a_cut_upload_goes_on_where_it_was(release, hub, capsys):
    save_file({"extra": torch.arange(5000.0)}, release / "extra.safetensors")
    hub.failures = [("POST", "/commit/", 500)]
    assert push(release) == 1
    error = capsys.readouterr().err
    assert "(HTTP 500); what was sent is kept; run the same command again" in error
    assert len(hub.store) == 2 and hub.files("me/tiny") == {}
    hub.requests.clear()
    assert push(release) == 0
    assert not hub.asked("PUT", "")  # both files are in the store
    assert hub.files("me/tiny") == content_of(release)


def test_one_file_of_two_is_kept_when_the_other_is_refused(release, hub, capsys):
    save_file({"extra": torch.arange(5000.0)}, release / "extra.safetensors")
    hub.failures = [("PUT", "/store/", 400)]
    assert push(release) == 1
    assert re.search(
        r"error: Error while uploading '\w+\.safetensors' to the Hub\..*\(HTTP 400\)", capsys.readouterr().err
    )
    hub.requests.clear()
    assert push(release) == 0
    assert len(hub.asked("PUT", "/store/")) == 1
    assert hub.files("me/tiny") == content_of(release)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("hf_" + "x" * 34, "does not know the token: set HF_TOKEN"),
        (None, "does not know the token: set HF_TOKEN"),
        (READER, "the token may not write to me/tiny"),
    ],
)
def test_tokens_that_do_not_do(token, message, release, hub, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    assert push(release) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith("error: ") and message in said.err.splitlines()[-1]
    assert token is None or token not in said.err + said.out
    assert not hub.asked("PUT", "") and hub.repositories == {}


def test_private_is_not_put_into_a_public_repository(release, hub, capsys):
    hub.repositories["me/tiny"] = Repository(private=False)
    assert push(release, "--private") == 1
    assert "me/tiny is public, and --private was asked for" in capsys.readouterr().err
    assert hub.files("me/tiny") == {}


def test_a_card_that_the_hub_refuses_is_told(release, hub, capsys):
    text = (release / "README.md").read_text()
    (release / "README.md").write_text(text.replace("license: apache-2.0", "license: [mit]"))
    assert push(release) == 1
    assert 'Invalid metadata in README.md. - "license" must be a string' in capsys.readouterr().err
    assert not hub.asked("PUT", "")  # before the first file


def test_mistakes_end_in_a_line(release, capsys):
    with pytest.raises(SystemExit):
        main([str(release), "--repo", "tiny"])
    assert "--repo 'tiny' is not of the form ORG/NAME" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="nowhere: there is no such folder"):
        push(Path("nowhere"))
