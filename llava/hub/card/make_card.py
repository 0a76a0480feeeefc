"""Writes README.md of a release from what a run's files hold."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llava.hub.card.base_license import license_of
from llava.hub.card.facts import facts_of_run, facts_of_scores
from llava.hub.card.metadata import PLACEHOLDER, Publication, base_models, build_metadata
from llava.hub.card.sample import README, CardSample, ask_sample, read_sample
from llava.hub.card.scores import Scores, paper_row, read_scores
from llava.hub.json_file import optional_json
from llava.hub.manifest import check_made_from
from llava.hub.run_facts import RunFacts, read_facts
from llava.model.checkpoints.config_adapter import is_llava_format, is_transformers_format
from llava.model.checkpoints.fingerprint import model_fingerprint
from llava.model.configuration import as_compression
from llava.plain_files import expanded
from llava.results.paper import PaperRow, PaperTable

TEMPLATE = Path(__file__).with_name("card.md.jinja")
_MARK = "made by llava.hub.card, sha256 "


@dataclass(frozen=True)
class Measured:
    """Results that go into a card.

    Attributes:
        results: results.json files of the checkpoint.
        vanilla: results.json files of the base model.
        paper: Name of a table of the paper, in place of the one about the base.
        model_base: What a projector or adapters go on; by default what they name.
    """

    results: Sequence[Path] = ()
    vanilla: Sequence[Path] = ()
    paper: str | None = None
    model_base: str | None = None


def make_card(
    run: str | Path,
    output: str | Path | None = None,
    publication: Publication | None = None,
    measured: Measured | None = None,
    *,
    sample_image: str | Path | None = None,
    sample_question: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes README.md.

    Args:
        run: Folder of a training run, or of a checkpoint.
        output: What is released, an export of the run; by default the run itself. The card goes there.
        publication: What only the user knows.
        measured: Results.
        sample_image: A picture; the checkpoint in `output` is asked about it.
        sample_question: The question. Without both, the sample of the card that is there already is kept.
        overwrite: Whether a README.md may be replaced that this function has not written, or that was edited since.

    Returns:
        The file.

    Raises:
        ValueError: A file is damaged or of another model, or what was said is not fit for a card.
    """
    publication, measured = publication or Publication(), measured or Measured()
    facts = read_facts(run, output)
    _check_export(facts)
    file = facts.folder / README
    if file.exists() and not overwrite and not _is_as_written(file.read_text(encoding="utf-8", errors="replace")):
        raise ValueError(
            f"{file} was not written by llava.hub.card, or was edited since; move it away, or give --overwrite"
        )
    if (sample_image is None) != (sample_question is None):
        raise ValueError("--sample-image and --sample-question go together")
    bases = base_models(facts, publication)
    paper = paper_row(facts, bases[0] if bases else None, measured.paper)
    scores = _scores(facts, measured)
    asked = None
    if sample_image is not None and sample_question is not None:
        asked = ask_sample(facts.folder, Path(sample_image), sample_question, model_base=measured.model_base)
    sample = asked or read_sample(facts.folder)
    file.write_text(_card_text(facts, publication, bases, scores, paper, sample), encoding="utf-8")
    return file


def _card_text(
    run: RunFacts,
    publication: Publication,
    bases: Sequence[str],
    scores: Scores | None,
    paper: tuple[PaperTable, PaperRow] | None,
    sample: CardSample | None,
) -> str:
    """The card: its template filled with facts, and the hash of all of it in its mark."""
    from huggingface_hub import ModelCard

    base_licenses = _base_licenses(run, bases)
    license = publication.license or _inherited(list(base_licenses.values()))
    card = ModelCard.from_template(
        build_metadata(run, publication, license=license, scores=scores, sample=sample),
        template_path=str(TEMPLATE),
        mark=_MARK,
        run=run,
        repo=publication.repo or PLACEHOLDER,
        bases=bases,
        license=license,
        base_licenses=base_licenses,
        data_licenses={name: license_of(name, "dataset") for name in publication.datasets},
        data_note=publication.data_note,
        sample=sample,
        **facts_of_run(run),
        **facts_of_scores(scores, paper),
    )
    text = f"{card}\n"
    return text.replace(_MARK, _MARK + _hash(text), 1)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _is_as_written(text: str) -> bool:
    """Whether a card is one of `make_card`, and nobody has changed it: its mark has the hash of all else."""
    found = re.search(f"{_MARK}([0-9a-f]{{64}}) -->", text)
    return found is not None and _hash(text.replace(found.group(1), "", 1)) == found.group(1)


def _check_export(facts: RunFacts) -> None:
    """Checks that the released folder is an export of the run and has the run's compression.

    Raises:
        ValueError: It is not, or has another.
    """
    if facts.folder.resolve() == facts.run.resolve():
        return
    check_made_from(facts.folder, facts.run)
    config = optional_json(facts.run, "config.json")
    if "compression" in config and (own := as_compression(config["compression"])) != facts.compression:
        raise ValueError(
            f"{facts.folder / 'config.json'}: compression {facts.compression or 'none'} is not that of {facts.run}, "
            f"{own or 'none'}; export it anew"
        )


def _scores(facts: RunFacts, measured: Measured) -> Scores | None:
    if not measured.results:
        if measured.vanilla:
            raise ValueError("--vanilla-results needs --results, which are compared with them")
        return None
    folders = dict.fromkeys((facts.run, facts.folder))
    named = [(folder, base) for folder in folders for base in dict.fromkeys((measured.model_base, None))]
    prints, reasons = set(), []
    for folder, base in named:
        try:
            prints.add(model_fingerprint(folder, base))
        except ValueError as error:  # the base of the run is not here: then the results may be of the export
            reasons.append(str(error))
    if not prints:
        raise ValueError(f"which model the results are of cannot be checked: {reasons[0]}")
    return read_scores(measured.results, prints, measured.vanilla, _base_prints(facts, measured))


def _base_prints(facts: RunFacts, measured: Measured) -> set[str]:
    """Fingerprints of the LLaVA that the run was trained from; none where it is not here, or is no LLaVA yet."""
    prints = set()
    for named in (measured.model_base, facts.base) if measured.vanilla else ():
        folder = None if named is None else expanded(named)
        if folder is not None and folder.is_dir():
            config = optional_json(folder, "config.json")
            if is_llava_format(config) or is_transformers_format(config):
                prints.add(model_fingerprint(folder))
    return prints


def _base_licenses(facts: RunFacts, bases: Sequence[str]) -> dict[str, str | None]:
    """What the cards of the bases say: that of a folder that the run trained from, else the Hub's."""
    folder = facts.base if facts.base is not None and Path(facts.base).is_dir() else None
    local = None if folder is None else license_of(folder)
    if not bases:
        return {"(a folder, not named here)": local} if local else {}
    if len(bases) == 1 and local is not None:
        return {bases[0]: local}
    return {name: license_of(name) for name in bases}


def _inherited(licenses: Sequence[str | None]) -> str | None:
    """The licence of all bases, if it is one and has an identifier of its own."""
    found = set(licenses)
    only = found.pop() if len(found) == 1 else None
    return only if only is not None and " " not in only and only not in ("other", "unknown") else None
