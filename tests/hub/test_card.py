"""Model cards: metadata that huggingface_hub reads back, and nothing that the run's files do not say."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import jinja2
import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from llava.hub.card.command import main
from llava.hub.card.make_card import Measured, make_card
from llava.hub.card.metadata import Publication, missing_fields
from llava.hub.card.sample import ask_sample, read_sample
from llava.model.checkpoints.fingerprint import model_fingerprint
from llava.model.configuration import CompressionConfig
from llava.results.paper import paper_tables
from tests.hub.conftest import ROOT, row, write_results

COMPLETE = Publication(
    repo="me/tiny-49", license="apache-2.0", base_models=["me/tiny"], data_note="Four scenes drawn for a test."
)


@pytest.fixture(autouse=True)
def strict_template(monkeypatch):
    """A name that the template misspells fails every test here; huggingface_hub alone would leave it out silently."""
    monkeypatch.setattr("jinja2.Template", partial(jinja2.Template, undefined=jinja2.StrictUndefined))


def change(file: Path, **entries) -> None:
    """Puts entries into a JSON file, `a__b` meaning b of a."""
    content = json.loads(file.read_text())
    for name, value in entries.items():
        *outer, last = name.split("__")
        place = content
        for key in outer:
            place = place[key]
        place[last] = value
    file.write_text(json.dumps(content))


def as_of_the_paper(run: Path) -> None:
    """The run as if it were the paper's own: table 1, 64 tokens."""
    change(run / "config.json", compression__dominant=54, compression__contextual=10)
    change(run / "training_args.json", model__model_name_or_path="liuhaotian/llava-v1.5-7b")


def test_the_metadata_are_read_back_by_huggingface_hub(run, tmp_path):
    results = write_results(
        tmp_path / "results.json",
        model_fingerprint(run),
        row("gqa", "visionzip:41+8", 0.551, data=[{"dataset": "lmms-lab/GQA", "revision": "f00"}]),
        row("gqa", "none", 0.58),
        row("mme", "visionzip:41+8", 1690.0, "total"),
    )
    file = make_card(run, publication=COMPLETE, measured=Measured([results]))
    data = ModelCard.load(file).data
    assert (data.license, data.base_model, data.pipeline_tag) == ("apache-2.0", ["me/tiny"], "image-text-to-text")
    assert data.library_name == "llava-visionzip" and data.tags == ["llava", "visionzip", "token-compression"]
    assert data.model_name == "tiny-49"
    gqa, mme = data.eval_results
    assert (gqa.dataset_type, gqa.dataset_name, gqa.dataset_revision) == ("lmms-lab/GQA", "GQA", "f00")
    assert (gqa.metric_type, gqa.metric_value) == ("accuracy", 55.1)
    assert (mme.metric_type, mme.metric_value, mme.dataset_type) == ("total", 1690.0, "mme")
    assert missing_fields(run) == []


def test_what_was_trained_and_how_is_in_the_files(run):
    text = make_card(run, publication=COMPLETE).read_text()
    arguments = json.loads((run / "training_args.json").read_text())
    subset = json.loads((run / "subset.json").read_text())
    losses = [entry["loss"] for entry in json.loads((run / "trainer_state.json").read_text())["log_history"][:-1]]
    for fact in (
        f"`{arguments['provenance']['commit']}`",
        "49 visual tokens an image instead of 196 (`visionzip:41+8`)",
        "| `--learning_rate` | `0.001` |",
        f"{losses[0]:.4f}, {losses[-1]:.4f}",
        f"2 of 3 entries of `train_tiny.json` (SHA-256 `{subset['sha256']}`)",
        "off its training condition",
        "It was not evaluated",
    ):
        assert fact in text, fact
    assert str(run.parent) not in text and str(ROOT) not in text  # a card does not say where things lay


def test_the_range_of_a_tuning_and_its_flags_are_told(run):
    budgets = [{"method": "visionzip", "dominant": d, "contextual": c} for d, c in ((17, 3), (82, 16))]
    text = make_card(run, publication=COMPLETE).read_text()
    assert "**Budgets**" not in text and "compression_" not in text and "distill" not in text
    change(run / "config.json", compression_range=dict(zip(("least", "most"), budgets, strict=True)))
    change(run / "training_args.json", training__compression_draw="20-98", training__distill_from="none")
    text = make_card(run, publication=COMPLETE, overwrite=True).read_text()
    for fact in (
        "- **Budgets**: it was tuned for all from `visionzip:17+3` to `visionzip:82+16`",
        "| `--compression_draw` | `20-98` |",
        "| `--distill_from` | `none` |",
        "| `--distill_weight` | `0.7` |",
        "| `--distill_teacher` | `start` |",
    ):
        assert fact in text, fact
    assert "compression_share" not in text


def test_what_the_files_do_not_say_is_not_said(run):
    for name in ("training_args.json", "subset.json", "trainer_state.json"):
        (run / name).unlink()
    change(run / "config.json", base_model_name_or_path=None)
    text = make_card(run).read_text()
    assert "How it was trained is not known" in text and "**Base model**: not named by the run" in text
    assert "**Licence**: unknown" in text
    assert "Whether it was trained for the compression in its config is not known" in text
    for absent in (
        "Nothing was trained",
        "## Data",
        "## Scores",
        "commit",
        "off its training",
        "learning_rate",
        "apache",
        "license:",
    ):
        assert absent not in text, absent
    lacking = " ".join(missing_fields(run))
    for name in ("license", "base_model", "datasets", "repository"):
        assert f"README.md: {name}:" in lacking


def test_a_run_that_was_stopped_or_whose_code_was_changed_says_so(run):
    change(run / "trainer_state.json", max_steps=10)
    change(run / "training_args.json", provenance__modified=True, plugins=[{"name": "mine.py", "sha256": "0a1b"}])
    text = make_card(run).read_text()
    assert "| plug-in | `mine.py` (SHA-256 begins with `0a1b`) |" in text
    assert "2 of 10: the run was stopped before its end" in text and "with changes that are not in it" in text


def test_retention_is_of_the_base_and_the_papers_row_stands_beside(run, tmp_path):
    as_of_the_paper(run)
    # The base cannot be had here, so that the fingerprint given is that of a run on a base of this machine.
    base = Path(shutil.copytree(ROOT / "playground" / "tiny" / "model", tmp_path / "base"))
    own = write_results(
        tmp_path / "own.json",
        model_fingerprint(run, base),
        row("gqa", "visionzip:54+10", 0.57),
        row("pope", "visionzip:54+10", 0.80, "f1", n=50),
        row("mmvet", "visionzip:54+10", None, "score"),
    )
    rows = row("gqa", "none", 0.60), row("pope", "none", 0.9, "f1")
    vanilla = write_results(tmp_path / "vanilla.json", "other", *rows)
    measured = Measured([own], [vanilla], "table1", str(base))
    with pytest.raises(ValueError, match=r"vanilla\.json holds the results of another model .*, the base's is"):
        make_card(run, publication=COMPLETE, measured=measured)
    write_results(vanilla, model_fingerprint(base), *rows)
    text = make_card(run, publication=COMPLETE, measured=measured).read_text()
    table = paper_tables()["table1"]
    paper = table.row("VisionZip_ft", 64)
    kept = table.retention(paper)
    assert f"| 57.0 % | 60.0 % | 95.0 % | {paper.scores['GQA']:g} | {kept['GQA']:.1f} % |" in text
    assert f"| 80.0 % | - | - | {paper.scores['POPE']:g} |" in text  # over another number of questions
    assert "Vanilla is the base model with all its tokens; " in text and "not scored here: mmvet" in text


def test_vanilla_is_of_the_same_questions_and_said_to_be_unchecked(run, tmp_path):
    fingerprint = model_fingerprint(run)
    change(run / "training_args.json", model__model_name_or_path="me/tiny")
    files = [
        write_results(tmp_path / f"{n}.json", fingerprint, row("gqa", "visionzip:41+8", own, n=n))
        for n, own in ((100, 0.5), (50, 0.4))
    ]
    files = [write_results(file, model_fingerprint(run), *json.loads(file.read_text())["rows"]) for file in files]
    rows = row("gqa", "none", 0.8, n=100), row("gqa", "none", 0.41, n=50)
    vanilla = write_results(tmp_path / "vanilla.json", "of a model that is not here", *rows)
    text = make_card(run, publication=COMPLETE, measured=Measured(files, [vanilla])).read_text()
    assert "| 100 | 50.0 % | 80.0 % | 62.5 % |" in text and "| 50 | 40.0 % | 41.0 % | 97.6 % |" in text
    assert "that the results are the base's was not checked" in text


def test_the_papers_table_is_found_by_the_base(run, tmp_path):
    from llava.hub.card.scores import paper_row
    from llava.hub.run_facts import read_facts

    as_of_the_paper(run)
    found = paper_row(read_facts(run), "liuhaotian/llava-v1.5-7b", None)
    assert found is not None and (found[0].name, found[1].method, found[1].tokens) == ("table1", "VisionZip_ft", 64)
    assert paper_row(read_facts(run), "me/another", None) is None
    facts = read_facts(run)
    adaptive = CompressionConfig.parse(f"{facts.compression},adaptive=attention,threshold=0.2")  # 64 are the most
    picture_says = replace(facts, config={**facts.config, "compression": adaptive.to_dict()})
    assert paper_row(picture_says, "liuhaotian/llava-v1.5-7b", None) is None
    change(run / "training_args.json", stage="lora")
    assert paper_row(read_facts(run), "liuhaotian/llava-v1.5-7b", None) is None  # the paper has no such row
    (run / "training_args.json").unlink()  # tuned or not is not known then
    assert paper_row(read_facts(run), "liuhaotian/llava-v1.5-7b", None) is None
    assert paper_row(read_facts(run), "liuhaotian/llava-v1.5-7b", "table1") is not None
    with pytest.raises(ValueError, match="--paper: no table 'table5'"):
        paper_row(read_facts(run), None, "table5")


def test_a_budget_that_the_picture_decides_is_the_most(run, tmp_path):
    change(run / "config.json", compression__adaptive={"rule": "attention", "threshold": 0.2, "floor": 1})
    assert "for at most 49 visual tokens an image" in make_card(run, publication=COMPLETE).read_text()


def test_results_of_another_model_are_refused(run, tmp_path):
    results = write_results(tmp_path / "results.json", "0123456789abcdef", row("gqa", "none", 0.5))
    with pytest.raises(ValueError, match=re.escape(f"{results} holds the results of another model")):
        make_card(run, publication=COMPLETE, measured=Measured([results]))
    assert not (run / "README.md").exists()
    results.write_text('{"rows": [{}]}')
    with pytest.raises(ValueError, match=r"is not a results\.json"):
        make_card(run, publication=COMPLETE, measured=Measured([results]))


def test_a_card_does_not_change_what_the_results_are_of(run, tmp_path):
    before = model_fingerprint(run)
    results = write_results(tmp_path / "results.json", before, row("gqa", "none", 0.5))
    make_card(run, publication=COMPLETE, measured=Measured([results]))
    assert model_fingerprint(run) == before


def test_a_base_that_is_a_folder_is_not_called_by_a_name_of_the_hub(run):
    change(run / "training_args.json", model__model_name_or_path="checkpoints/llava-7b")
    (run.parent / "checkpoints" / "llava-7b").mkdir(parents=True)  # where the run was made, and the card is not
    text = make_card(run).read_text()
    assert "checkpoints/" not in text and "**Base model**: not named by the run" in text


def test_the_licence_of_the_base_is_taken_from_its_card(run):
    text = make_card(run).read_text()  # the tiny model's card says apache-2.0
    assert "license: apache-2.0" in text and "its card says apache-2.0" in text
    assert "These weights: mit." in make_card(run, publication=Publication(license="mit")).read_text()


def test_a_readme_of_somebody_is_not_replaced(run):
    (run / "README.md").write_text("# Mine\n")
    with pytest.raises(ValueError, match="was not written by"):
        make_card(run)
    assert (run / "README.md").read_text() == "# Mine\n"
    make_card(run, overwrite=True)
    file = make_card(run)  # its own it replaces
    edited = file.read_text() + "\n## My own section\n"
    file.write_text(edited)
    with pytest.raises(ValueError, match="was edited since"):
        make_card(run)
    assert file.read_text() == edited


def test_what_is_released_must_be_an_export_of_the_run(run, tmp_path):
    from llava.hub.export import export

    export(run, "hf", tmp_path / "export", progress=False)
    export(tmp_path / "export", "hf", tmp_path / "of-export", progress=False)
    make_card(run, tmp_path / "export")
    make_card(run, tmp_path / "of-export")
    change(tmp_path / "of-export" / "config.json", compression__dominant=40)
    with pytest.raises(ValueError, match=r"compression visionzip:40\+8 is not that of .*, visionzip:41\+8"):
        make_card(run, tmp_path / "of-export")
    other = Path(shutil.copytree(run, tmp_path / "other"))
    change(other / "config.json", compression__dominant=54)
    with pytest.raises(ValueError, match=r"is no export of .* as it is now"):
        make_card(other, tmp_path / "export")
    (tmp_path / "export" / "export.json").unlink()
    with pytest.raises(ValueError, match=r"no export\.json says what it was made from"):
        make_card(run, tmp_path / "export")


def test_the_sample_is_answered_by_the_checkpoint_and_kept(run, capsys):
    from llava.inference import GenerationOptions, Inference

    image = ROOT / "tests" / "fixtures" / "oracle" / "images" / "square.png"
    question = "How many digits are there?"
    command = [str(run), "--repo", "me/tiny-49", "--base-model", "me/tiny", "--data-note", "Four scenes."]
    main([*command, "--sample-image", str(image), "--sample-question", question])
    printed = capsys.readouterr().out
    assert "written: " in printed and "missing" not in printed
    sample = read_sample(run)
    assert sample is not None and (run / sample.image).read_bytes() == image.read_bytes()
    inference = Inference.load(run, device="cpu", torch_dtype="float32", compression="visionzip:41+8")
    answer = inference.ask_one(question, image, options=GenerationOptions(max_new_tokens=sample.max_new_tokens)).text
    assert sample.answers["visionzip:41+8"] == answer and set(sample.answers) == {"visionzip:41+8", "none"}
    main(command)  # made anew, for example with results
    assert read_sample(run) == sample
    (run / sample.image).unlink()
    with pytest.raises(ValueError, match=r"sample\.image 'card_sample\.png' is no file beside the card"):
        read_sample(run)


def test_values_break_no_table_and_are_written_as_they_are(run):
    change(run / "training_args.json", model__version="v1|v2\n<b>& {{ repo }}")
    (run / "card_sample.png").write_bytes(b"")
    answers = {"visionzip:41+8|fastv:4,layer=2": "a | b\n\nc <d> & {{ repo }}", "none": "'e'\r\n"}
    sample = {"image": "card_sample.png", "question": "<q> & {{ repo }}?", "conv_mode": "v1", "max_new_tokens": 8}
    front = yaml.safe_dump({"sample": {**sample, "dtype": "float32", "answers": answers}})
    (run / "README.md").write_text(f"---\n{front}---\n")
    file = make_card(run, publication=COMPLETE, overwrite=True)
    lines = file.read_text().splitlines()
    assert "| `--version` | `v1\\|v2 <b>& {{ repo }}` |" in lines
    assert "| `visionzip:41+8\\|fastv:4,layer=2` | a \\| b  c <d> & {{ repo }} |" in lines
    assert "| all | 'e' |" in lines and "*<q> & {{ repo }}?*" in lines
    kept = read_sample(run)
    assert kept is not None and kept.answers == answers
    assert ModelCard.load(file).data.sample["answers"] == answers


def test_a_new_picture_takes_the_place_of_the_old(run, tmp_path):
    (run / "card_sample.png").write_bytes(b"of an earlier card")
    Image.new("RGB", (50, 50)).save(tmp_path / "other.jpg")
    ask_sample(run, tmp_path / "other.jpg", "What is it?", max_new_tokens=1)
    assert [file.name for file in run.glob("card_sample.*")] == ["card_sample.jpg"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--license", "Apache 2.0"], "--license 'Apache 2.0' is not an identifier"),
        (["--license", "other"], "--license-name and --license-link"),
        (["--base-model", "/data/llava"], "--base-model '/data/llava' is not a name on the Hub"),
        (["--repo", "tiny"], "--repo 'tiny' is not of the form ORG/NAME"),
        (["--sample-question", "What?"], "--sample-image and --sample-question go together"),
        (["--results", "nowhere.json"], "nowhere.json: No such file"),
        (["--vanilla-results", "x.json"], "--vanilla-results needs --results"),
        (["--output", "nowhere"], "nowhere: there is no such folder"),
    ],
)
def test_mistakes_end_in_a_line(run, flags, message):
    with pytest.raises(SystemExit) as caught:
        main([str(run), *flags])
    assert str(caught.value).startswith("error: ") and message in str(caught.value) and "\n" not in str(caught.value)


def test_the_ways_to_load_are_run(run, tmp_path):
    """The code that a card shows, on an export of the run in the place of the repository."""
    from llava.hub.export import export

    folder = tmp_path / "export"
    export(run, "hf", folder, progress=False)
    text = make_card(run, folder, COMPLETE).read_text()
    shown = [block.replace("me/tiny-49", str(folder)) for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
    assert len(shown) == 2
    ours, plain = {}, {}
    exec(shown[0], ours)
    exec(shown[1], plain)
    assert str(ours["model"].compression) == "visionzip:41+8"
    assert type(plain["model"]).__module__.startswith("transformers.") and plain["processor"].image_processor
    assert missing_fields(folder) == [] and "`compression`" in text  # the export's note on it
    assert json.loads((run / "subset.json").read_text())["sha256"] in text
