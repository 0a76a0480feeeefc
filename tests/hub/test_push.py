"""Publishing: refused is what should not be published, and what is sent arrives, over every way a connection breaks."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from llava.hub.card.make_card import make_card
from llava.hub.card.metadata import Publication
from llava.hub.publish.checks import find_problems
from llava.hub.publish.leaks import Leak, find_leaks
from llava.hub.publish.release_files import ReleaseFile, list_files
from llava.hub.push import main
from tests.hub.conftest import ROOT, TINY
from tests.hub.hub_server import READER, WRITER, Repository, serving

COMPLETE = Publication(repo="me/tiny", license="apache-2.0", base_models=["me/digits"], data_note="Digits.")


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "release"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("README.md"))
    make_card(folder, publication=COMPLETE)
    return folder


@pytest.fixture
def release(made_once, tmp_path) -> Path:
    return Path(shutil.copytree(made_once, tmp_path / "release"))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A local Hub, which huggingface_hub takes for the Hub as it does with HF_ENDPOINT."""
    with serving() as state:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", state.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no_token"))
        monkeypatch.setenv("HF_TOKEN", WRITER)
        yield state


def push(folder: Path, *flags: str) -> int:
    return main([str(folder), "--repo", "me/tiny", *flags])


def content_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.path.read_bytes() for file in list_files(folder)}


# --- what is refused ---


def as_pickle(protocol):
    return lambda file: file.write_bytes(pickle.dumps({"a": [1, 2]}, protocol=protocol))


class Calls:
    def __reduce__(self):
        return print, ("called",)


def as_tar(file):
    with tarfile.open(file, "w") as archive:
        archive.add(Path(__file__), "optimizer.pt")


FORBIDDEN = {
    "tailed": (lambda file: file.write_bytes(pickle.dumps(Calls(), protocol=0) + b"\n"), "a pickle"),
    "run.dat": (as_tar, "a tar archive: what is in it is not checked"),
    "run.lz": (lambda file: file.write_bytes(b"\x04\x22\x4d\x18x"), "lz4: what is in it is not checked"),
    "trainer_state.json": (lambda file: file.write_text("{}"), "state of an optimizer or of a run"),
    "logs/events.out.tfevents.1.host": (lambda file: file.write_bytes(b"x"), "state of an optimizer or of a run"),
    "global_step9/x.json": (lambda file: file.write_text("{}"), "state of an optimizer or of a run"),
    "sub/global_step9/x.json": (lambda file: file.write_text("{}"), "state of an optimizer or of a run"),
    "notes.txt": (as_pickle(0), "a pickle"),
    "extra.dat": (as_pickle(4), "a pickle"),
    "weights.data": (lambda file: torch.save({"a": torch.ones(2)}, file), "a zip with a pickle in it"),
    "old.data": (lambda file: torch.save({"a": 1}, file, _use_new_zipfile_serialization=False), "a pickle"),
    "objects.npy": (lambda file: np.save(file, np.array([{}], dtype=object)), "a NumPy file of pickled objects"),
    "objects.npz": (lambda file: np.savez(file, a=np.array([{}], dtype=object)), "a zip with a pickle in it"),
    "empty.bin": (lambda file: file.write_bytes(b""), "called .bin, as pickles are"),
    "more.tgz": (lambda file: file.write_bytes(b"\x1f\x8b\x08"), "gzip: what is in it is not checked"),
    "optimizer.pt": (lambda file: file.write_bytes(b"x"), "state of an optimizer"),
    "checkpoint-9/rng_state_0.pth": (lambda file: file.write_bytes(b"x"), "state of an optimizer or of a run"),
    "modeling.py": (lambda file: file.write_text("x = 1"), "code, which a checkpoint needs none of"),
    "kernel.so": (lambda file: file.write_bytes(b"x"), "code, which a checkpoint needs none of"),
    "kernel.data": (lambda file: file.write_bytes(b"\x7fELF\x02"), "code, which a checkpoint needs none of"),
    "other.json": (
        lambda file: file.write_text('{"a": [{"auto_map": {}}]}'),
        "its entry auto_map tells loaders",
    ),
    "linked.txt": (lambda file: file.symlink_to(__file__), "a link out of the folder; put the file itself there"),
    "adam.safetensors": (lambda file: save_file({"p.0.exp_avg": torch.ones(1)}, file), "it holds p.0.exp_avg"),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_pickles_and_optimizers_are_known_by_their_content(name, release):
    write, reason = FORBIDDEN[name]
    (release / name).parent.mkdir(exist_ok=True, parents=True)
    write(release / name)
    if name.startswith("objects") and not (release / name).exists():
        pytest.fail("numpy wrote another name")
    (problem,) = find_problems(release, list_files(release))
    assert problem.startswith(f"{name}: ") and reason in problem


def test_tensors_that_are_not_finite_are_refused(release):
    save_file({"a": torch.ones(2), "b": torch.tensor([1.0, torch.nan]).bfloat16()}, release / "more.safetensors")
    (problem,) = find_problems(release, list_files(release))
    assert problem.startswith("more.safetensors: b holds numbers that are not finite")


def test_plain_files_are_no_pickles(release):
    (release / "array.npy").write_bytes(b"")
    np.save(release / "array.npy", np.ones(3))
    for name, text in (("a.txt", "."), ("b.txt", "N."), ("c.txt", "(dp0\nnot a pickle"), ("d.txt", "I am text.\n")):
        (release / name).write_text(text)
    (release / ".gitignore").write_text("checkpoints\n__pycache__\n.venv\n")  # reads as a pickle, and calls nothing
    for name in ("optimizer.md", "optimizer.png", "ablation-optimizer.csv"):
        (release / name).write_text("What it is.")
    assert find_problems(release, list_files(release)) == []


H, X = "0123456789abcdef" * 3, "aB3" * 20  # made up, and put together here so that scanners let this file pass
LEAKS = {
    "token = hf_" + X[:34]: "a Hugging Face token",
    '"key": "sk-proj-' + X[:40] + '"': "an OpenAI key",
    "sk-" + "ant-api03-" + X[:40]: "an Anthropic key",
    "WANDB_API_KEY=" + H[:40]: "a wandb key",
    "machine api.wandb.ai login user password " + H[:40]: "a password of .netrc",
    "AKIA" + "ABCDEFGH12345678": "an AWS access key",
    "aws_secret_access_key = " + X[:40]: "an AWS secret key",
    "ghp_" + X[:36]: "a GitHub token",
    "glpat-" + X[:20]: "a GitLab token",
    "//registry/:_authToken=npm_" + X[:36]: "a token of npm",
    "pypi-" + "AgEIcHlwaS5vcmc" + X[:60]: "a token of PyPI",
    "r8_" + X[:37]: "a Replicate token",
    "gsk_" + X[:52]: "a Groq key",
    "AccountName=a;AccountKey=" + X + X[:26] + "==": "an Azure key",
    "-----BEGIN RSA PRIVATE" + " KEY-----": "a private key",
    "git clone https://me:secret@host.org/x": "a URL with a password",
    'API_KEY: "' + X[:20] + '"': "a key or password",
    '{"output_dir": "/data/me/runs/7b"}': "an absolute path: /data/me/runs/7b",
    "see (/home/me/llava/README.md)": "an absolute path: /home/me/llava/README.md",
    "at file:///mnt/x": "an absolute path: file:///mnt/x",
    r'"C:\\Users\\me\\model"': "an absolute path of Windows",
    '{"log": "login\\nhf_' + X[:34] + '"}': "a Hugging Face token",
    '{"log": "{\\"a\\": \\"\\\\nhf_' + X[:34] + '"}': "a Hugging Face token",
    '{"log": "\\u0068f_' + X[:34] + '"}': "a Hugging Face token",
    '{"log": "saved to\\n/home/me/runs"}': "an absolute path: /home/me/runs",
    r'{"p": "\/home\/me\/runs"}': "an absolute path: /home/me/runs",
    "<td>/home/me/runs</td>": "an absolute path: /home/me/runs",
    "**/home/me/runs**": "an absolute path: /home/me/runs",
    "path:/home/me/runs": "an absolute path: /home/me/runs",
    "a:/home/bob": "an absolute path: /home/bob",
    "cc -I/home/me/include": "an absolute path: /home/me/include",
    "train 2>/home/me/x": "an absolute path: /home/me/x",
    "sqlite:////scratch2/me/x.db": "an absolute path: /scratch2/me/x.db",
    "sk-" + "0123456789abcdef" * 2: "an OpenAI key",
    "jwt: eyJ" + X[:20] + ".eyJ" + X[:30] + "." + X[:40]: "a JSON web token",
    "https://hooks.slack.com/" + "services/T0ABCDEFG/B0ABCDEFG/" + X[:24]: "the URL of a webhook",
    "https://discord.com/api/" + "webhooks/123456789/" + X[:40]: "the URL of a webhook",
    "https://api.telegram.org/" + "bot123456:" + X[:35] + "/send": "the URL of a webhook",
}


@pytest.mark.parametrize("line", LEAKS)
def test_secrets_and_paths_are_found_with_file_and_line(line, tmp_path):
    file = tmp_path / "notes.md"
    file.write_text(f"first\n\n{line}\nlast\n")
    (leak,) = find_leaks(ReleaseFile(file, "sub/notes.md", file.stat().st_size))
    assert str(leak).startswith(f"sub/notes.md, line 3: {LEAKS[line]}")
    assert X[:20] not in str(leak) and H[:20] not in str(leak) and "secret@" not in str(leak)


HARMLESS = (
    "https://huggingface.co/llava-hf/llava-1.5-7b-hf/resolve/main/config.json",
    "runs/7b/results.json and ./configs/x.yaml or ~/llava and $HOME/llava/x, either/or, 1/2/3",
    '{"commit": "' + H[:40] + '", "pad_token": "<pad>", "tokenizer_class": "LlamaTokenizerFast"}',
    "<b>bold</b> </s> <image>\n{{ a }}/{{ b }}/c",
    "sha256 " + H + H[:16],
    "POST to `/v1/chat/completions`, see [code](/llava/hub/card.py)",
    '<a href="/docs/hub/cards">cards</a> https://x.org/home/me/runs</home>',
    "#!/usr/bin/env python",
    "sk-learn-based-digit-classifier-v2",
)


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_passes(text, tmp_path):
    file = tmp_path / "README.md"
    file.write_text(text)
    assert find_leaks(ReleaseFile(file, "README.md", 1)) == []


def test_the_header_of_safetensors_is_read_too(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(2)}, file, metadata={"from": "/home/me/run/model"})
    (leak,) = find_leaks(ReleaseFile(file, "model.safetensors", 1))
    assert "/home/me/run/model" in str(leak)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_other_encodings_are_read_too(encoding, tmp_path):
    for text in ("é hf_" + X[:34], "é\nin /home/me/runs"):
        file = tmp_path / "notes.txt"
        file.write_text(text, encoding=encoding)
        (leak,) = leaks_of(file)
        assert leak.line == text.count("\n") + 1


def leaks_of(file: Path) -> list[Leak]:
    return find_leaks(ReleaseFile(file, file.name, file.stat().st_size))


TOKEN = ("hf_" + X[:34]).encode()
TENSOR = save({"a": torch.frombuffer(bytearray(TOKEN), dtype=torch.uint8)})
BYTES = {
    "nul.txt": TOKEN + b"\0",
    "MODEL.SAFETENSORS": save({"a": torch.ones(2)}, metadata={"from": TOKEN.decode()}),
    "tail.safetensors": TENSOR + b" " + TOKEN,
    "picture.png": b"\x89PNG\r\n\x1a\n" + bytes(range(32)) * 9 + b"tEXt" + b"\0" + TOKEN + b"\0",
    "tokenizer.model": bytes(range(32)) * 9 + TOKEN + b"\x12",
    "across.dat": bytes(range(32)) * 2**15 + b"",  # a block; the token is put across its end below
}


@pytest.mark.parametrize("name", BYTES)
def test_tokens_are_found_in_any_bytes(name, tmp_path):
    content = BYTES[name]
    (tmp_path / name).write_bytes(content if name != "across.dat" else content[:-20] + TOKEN + content)
    (leak,) = leaks_of(tmp_path / name)
    assert leak.what == "a Hugging Face token" and leak.is_secret


def test_a_secret_in_the_name_of_a_file_is_refused_and_not_shown(release, capsys):
    (release / f"notes-{TOKEN.decode()}.txt").write_text("x")
    assert push(release, "--dry-run") == 1
    said = "".join(capsys.readouterr())
    assert "notes-<a Hugging Face token>.txt: a secret in the name of a file" in said and TOKEN.decode() not in said


def test_a_secret_in_a_path_is_not_shown(tmp_path):
    (tmp_path / "notes.md").write_bytes(b"/home/me/" + TOKEN)
    secret, path = leaks_of(tmp_path / "notes.md")
    assert secret.is_secret and path.what == "an absolute path"


def test_the_folders_of_ones_own_machine_are_known(tmp_path, monkeypatch):
    (tmp_path / "notes.md").write_text("in /laboratory3/you/runs")
    assert leaks_of(tmp_path / "notes.md") == []
    monkeypatch.setenv("HOME", "/laboratory3/me")
    assert [leak.what for leak in leaks_of(tmp_path / "notes.md")] == ["an absolute path: /laboratory3/you/runs"]


def test_tensors_are_no_text(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(TENSOR)
    assert leaks_of(tmp_path / "model.safetensors") == []


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
