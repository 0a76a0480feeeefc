"""Publishing: what is refused by its bytes or its text: pickles, states of runs, secrets, paths."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from llava.hub.publish.checks import find_problems
from llava.hub.publish.leaks import Leak, find_leaks
from llava.hub.publish.release_files import ReleaseFile, list_files
from tests.hub.conftest import push

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
