"""`python -m llava.data.subset`."""

import json
from collections import Counter
from hashlib import sha256

import pytest

from llava.data.records import source_of
from llava.data.subset import main, stratified_indices, subset_indices

SOURCES = ["coco", "gqa", "text", "vg"]


def record(index: int) -> dict:
    # 400 of coco, 200 of gqa, 90 of text, 10 of vg
    source = SOURCES[0 if index % 7 < 4 else 1 if index % 7 < 6 else 3 if index % 70 == 6 else 2]
    image = {} if source == "text" else {"image": f"{source}/images/{index}.jpg"}
    return {"id": f"n{index}", **image, "conversations": [{"from": "human", "value": "é\u2028"}]}


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([record(index) for index in range(700)]))
    return path


def run(data, *flags):
    output = data.with_name("out.json")
    assert main([str(data), "--output", str(output), *map(str, flags)]) == 0
    return json.loads(output.read_text())


def test_sources():
    assert Counter(source_of(record(index)) for index in range(700)) == {"coco": 400, "gqa": 200, "text": 90, "vg": 10}
    assert source_of({"image": ["vg/VG_100K/1.jpg", "coco/2.jpg"]}) == "vg"
    assert source_of({"image": "1.jpg"}) == "(no folder)" and source_of({"image": None}) == "text"


def test_every_source_gives_its_share(data, capsys):
    chosen = run(data, "--fraction", 0.1, "--seed", 7, "--stratify", "source")
    assert Counter(map(source_of, chosen)) == {"coco": 40, "gqa": 20, "text": 9, "vg": 1}
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["coco"] == ["40", "400"] and rows["text"] == ["9", "90"] and rows["all"] == ["70", "700"]
    assert chosen == [record(int(entry["id"][1:])) for entry in chosen]
    assert chosen == sorted(chosen, key=lambda entry: int(entry["id"][1:]))
    assert run(data, "--fraction", 0.1, "--seed", 7, "--stratify", "source") == chosen
    assert run(data, "--fraction", 0.1, "--seed", 8, "--stratify", "source") != chosen


def test_a_stratum_is_drawn_as_the_whole_is():
    strata = ["a"] * 30 + ["b"] * 20
    lowest = [sorted(indices, key=lambda index: rank(5, index)) for indices in (range(30), range(30, 50))]
    assert stratified_indices(strata, 0.2, 5) == sorted(lowest[0][:6] + lowest[1][:4])
    assert stratified_indices([""] * 50, 0.2, 5) == subset_indices(50, 0.2, 5)
    assert set(stratified_indices(strata, 0.1, 5)) < set(stratified_indices(strata, 0.33, 5))
    assert stratified_indices(["a", "b", "b"], 0.01, 0)[0] == 0


def rank(seed: int, index: int) -> str:
    return sha256(f"{seed}:{index}".encode()).hexdigest()


def test_without_strata_it_is_what_training_draws(data):
    chosen = run(data, "--fraction", 0.1, "--seed", 42)
    assert [entry["id"] for entry in chosen] == [f"n{index}" for index in subset_indices(700, 0.1, 42)]


def test_a_manifest_remakes_the_subset_elsewhere(data, tmp_path):
    chosen = run(data, "--fraction", 0.05, "--stratify", "source")
    manifest = tmp_path / "out.manifest.json"
    content = json.loads(manifest.read_text())
    assert content["stratify"] == "source" and content["fraction"] == 0.05 and content["seed"] == 42
    assert content["sources"] == {"coco": 20, "gqa": 10, "text": 4, "vg": 1} and content["num_samples"] == 700
    other = tmp_path / "elsewhere" / "renamed.json"
    other.parent.mkdir()
    other.write_bytes(data.read_bytes())
    assert run(other, "--from-manifest", manifest) == chosen
    assert (tmp_path / "elsewhere/out.json").read_bytes() == (tmp_path / "out.json").read_bytes()
    other.write_text(other.read_text() + " ")
    with pytest.raises(SystemExit, match=r"out\.manifest\.json: .*has SHA-256 .* but the subset was drawn from data"):
        run(other, "--from-manifest", manifest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indices": [1, 2]}, "its ids are not those"),
        ({"indices": [-1]}, "an index is outside its 700 entries"),
        ({"sha256": None}, "has SHA-256"),
        ({"indices": None}, "its indices are None, not a list"),
    ],
)
def test_a_damaged_manifest_is_refused(data, tmp_path, change, message):
    run(data, "--fraction", 0.05)
    manifest = tmp_path / "out.manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | change))
    with pytest.raises(SystemExit, match=message):
        run(data, "--from-manifest", manifest)
    manifest.write_text("[]")
    with pytest.raises(SystemExit, match="not a manifest"):
        run(data, "--from-manifest", manifest)


def test_wrong_use_ends_in_a_line(data, tmp_path):
    with pytest.raises(SystemExit, match=r"--fraction must be in \(0, 1\], got 1\.5"):
        run(data, "--fraction", 1.5)
    with pytest.raises(SystemExit, match="would overwrite the data"):
        main([str(data), "--fraction", "0.1", "--output", str(data)])
    with pytest.raises(SystemExit, match=r"none\.json is not a file"):
        run(tmp_path / "none.json", "--fraction", 0.1)
    (tmp_path / "a").mkdir()
    both = ["--output", str(tmp_path / "x.json"), "--manifest", str(tmp_path / "a" / ".." / "x.json")]
    with pytest.raises(SystemExit, match="is the manifest too"):
        main([str(data), "--fraction", "0.1", *both])
    run(data, "--fraction", 0.1)
    manifest = tmp_path / "out.manifest.json"
    written = manifest.read_text()
    with pytest.raises(SystemExit, match="is the manifest too"):
        main([str(data), "--from-manifest", str(manifest), "--output", str(manifest)])
    assert manifest.read_text() == written
    with pytest.raises(SystemExit) as caught:
        main([str(data), "--output", "x"])
    assert caught.value.code == 2


def test_jsonl_stays_jsonl(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps(record(index)) for index in range(10)))
    main([str(data), "--fraction", "0.5", "--output", str(tmp_path / "out.jsonl")])
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().split("\n")[:-1]] == [
        record(index) for index in subset_indices(10, 0.5, 42)
    ]


def test_half_a_character_is_kept(tmp_path):
    data = tmp_path / "data.json"
    data.write_text(json.dumps([record(0) | {"id": "\ud83d", "image": "\ud83d/1.jpg"}]))
    assert run(data, "--fraction", 1, "--stratify", "source") == json.loads(data.read_text())
    assert run(data, "--from-manifest", tmp_path / "out.manifest.json") == json.loads(data.read_text())
