"""The folder of an export: links followed, interruptions cleaned up, and no instant without old or new."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llava.hub import staging
from llava.hub.exchange import exchange
from llava.hub.staging import MANIFEST, staged


def write(folder: Path, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(text)
    (folder / MANIFEST).write_text(json.dumps({"files": {"config.json": 1}}))


def export(output: Path, text: str) -> None:
    with staged(output, overwrite=True) as work:
        write(work, text)


def hidden(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.name.startswith(".")]


@pytest.mark.parametrize("how", ["exchanged", "renamed"])
@pytest.mark.parametrize("before", ["nothing", "empty", "an export"])
def test_a_link_is_followed_and_stays(before, how, tmp_path, monkeypatch):
    if how == "renamed":
        monkeypatch.setattr(staging, "exchange", lambda *_: False)
    disk, link = tmp_path / "disk", tmp_path / "home" / "out"
    (tmp_path / "home").mkdir()
    disk.mkdir()
    link.symlink_to(disk / "release")
    if before != "nothing":
        (disk / "release").mkdir()
    if before == "an export":
        write(disk / "release", "old")
        (disk / "release" / "README.md").write_text("card")
    export(link, "new")
    assert link.is_symlink() and (disk / "release" / "config.json").read_text() == "new"
    assert (disk / "release" / "README.md").exists() == (before == "an export")
    assert hidden(disk) == hidden(tmp_path / "home") == hidden(disk / "release") == []


def test_a_link_to_itself_is_an_error(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ValueError, match="loop"):
        export(tmp_path / "loop", "new")


KILLED = """
import os, signal, sys
from tests.hub.test_staging import write
from llava.hub.staging import staged
from pathlib import Path

with staged(Path(sys.argv[1]), overwrite=True) as work:
    write(work, "half")
    print("at work", flush=True)
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def test_what_was_killed_is_cleaned_up_and_what_lives_is_left(tmp_path, caplog):
    out = tmp_path / "out"
    write(out, "old")
    subprocess.run([sys.executable, "-c", KILLED, str(out), "kill"], check=False, stdout=subprocess.DEVNULL)
    (left,) = hidden(tmp_path)
    assert (out / "config.json").read_text() == "old"
    command = [sys.executable, "-c", KILLED, str(out), "wait"]
    living = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert living.stdout.readline() == "at work\n"
    assert left not in hidden(tmp_path)  # it has removed what was left
    (work,) = hidden(tmp_path)
    export(out, "new")
    assert hidden(tmp_path) == [work] and (out / "config.json").read_text() == "new"
    living.communicate("")
    assert hidden(tmp_path) == [] and (out / "config.json").read_text() == "half"


def test_a_folder_that_was_set_aside_is_put_back(tmp_path, caplog):
    write(tmp_path / ".out.replaced-abc", "old")
    (tmp_path / ".out.partial-def").mkdir()
    (tmp_path / ".other.partial-ghi").mkdir()
    os.utime(tmp_path / ".out.partial-def", (time.time() - 9999,) * 2)
    with pytest.raises(RuntimeError), staged(tmp_path / "out", overwrite=True):
        raise RuntimeError
    assert (tmp_path / "out" / "config.json").read_text() == "old" and hidden(tmp_path) == [".other.partial-ghi"]
    assert "put back" in caplog.text and "removed" in caplog.text


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the step is Linux's")
def test_there_is_no_instant_without_old_or_new(tmp_path):
    write(tmp_path / "out", "old")
    watcher = subprocess.Popen(
        [sys.executable, "-c", WATCHES, str(tmp_path / "out" / "config.json")], stdout=subprocess.PIPE, text=True
    )
    assert watcher.stdout.readline() == "watching\n"
    for number in range(50):
        export(tmp_path / "out", str(number))
    watcher.send_signal(signal.SIGTERM)
    assert int(watcher.communicate()[0]) == 0
    assert not exchange(tmp_path / "out", tmp_path / "nowhere")


WATCHES = """
import os, signal, sys
missed = 0

def end(*_):
    print(missed, flush=True)
    os._exit(0)

signal.signal(signal.SIGTERM, end)
print("watching", flush=True)
while True:
    missed += not os.path.exists(sys.argv[1])
"""


def test_the_room_of_the_work_is_no_part_of_the_result(tmp_path):
    export(tmp_path / "out", "new")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["config.json", MANIFEST]
    (tmp_path / "made").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "made").stat().st_mode
