"""Self-distillation: the loss against plain torch over models' own logits, sample by sample; who learns, who not."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from llava import load_pretrained_model
from llava.data.collator import Collator
from llava.model.sdpa_by_sample import attend_by_sample
from llava.model.target_loss import Teaching
from llava.train.distillation import Teacher
from llava.train.train import train
from tests.train.conftest import losses_of

STUDENT = "visionzip:54+10"
HEAT, WEIGHT = 2.0, 0.7


@pytest.fixture(scope="module")
def data(oracle_dir, tmp_path_factory):
    """Samples of different lengths: with a picture, with two, with none, and with two rounds of answers."""
    records = json.loads((oracle_dir / "train_tiny.json").read_text())
    pair = [{"from": "human", "value": "<image>\n<image>\nWhich?"}, {"from": "gpt", "value": "the first"}]
    records.append({"id": "pair", "image": ["square.png", "wide.png"], "conversations": pair})
    file = tmp_path_factory.mktemp("data") / "data.json"
    file.write_text(json.dumps(records))
    return file


def load(folder, **options):
    return load_pretrained_model(folder, device="cpu", **options)[1]


def logits_of(model, sample, budget: str) -> Tensor:
    """(targets, vocabulary) of one sample alone: all logits, looked up where each target is predicted."""
    model.set_compression(budget)
    given = {"images": sample.images, "image_sizes": sample.image_sizes} if sample.images else {}
    with torch.no_grad():
        lengths = [len(each) for each in model.encode_each(**given)] if given else []
        logits = model(sample.input_ids[None], **given).logits[0]
    images, place, rows = iter(lengths), 0, []
    for token, label in zip(sample.input_ids.tolist(), sample.labels.tolist(), strict=True):
        if label != -100:
            rows.append(logits[place - 1])
        place += next(images) if token == -200 else 1
    return torch.stack(rows).float()


def expected_loss(student, teacher, samples, teacher_budget: str, student_budget: str = STUDENT) -> float:
    """(1 - w) CE + w T^2 KL, means over all targets, written out."""
    cross, divergence, count = 0.0, 0.0, 0
    for sample in samples:
        own, other = logits_of(student, sample, student_budget), logits_of(teacher, sample, teacher_budget)
        targets = sample.labels[sample.labels != -100]
        cross -= float(own.log_softmax(-1)[torch.arange(len(targets)), targets].sum())
        p, q = (other / HEAT).softmax(-1), (own / HEAT).softmax(-1)
        divergence += float((p * (p / q).log()).sum()) * HEAT**2
        count += len(targets)
    return ((1 - WEIGHT) * cross + WEIGHT * divergence) / count


def distilling(data, **changes) -> dict[str, object]:
    return {
        "stage": "projector",
        "compression": STUDENT,
        "data_path": data,
        "distill_from": "none",
        "distill_weight": WEIGHT,
        "distill_temperature": HEAT,
        "train_sampling_strategy": "sequential",
        **changes,
    }


@pytest.fixture(scope="module")
def samples(data, oracle_dir, tmp_path_factory):
    """What `data` becomes, in order."""
    from llava.train.arguments import parse_arguments
    from llava.train.run import prepare

    words = {"model_name_or_path": oracle_dir / "tiny-llava-v1.5", "data_path": data, "version": "v1"}
    words |= {"image_folder": oracle_dir / "images", "output_dir": tmp_path_factory.mktemp("run") / "out"}
    words |= {"use_cpu": True, "report_to": "none", "stage": "projector"}
    dataset = prepare(parse_arguments([w for k, v in words.items() for w in (f"--{k}", str(v))])).trainer.train_dataset
    return [dataset[index] for index in range(len(dataset))]


@pytest.mark.parametrize(
    ("attention", "packing"),
    [
        pytest.param("sdpa", False, marks=pytest.mark.slow, id="padded"),
        pytest.param("eager", True, id="rows"),
        pytest.param("sdpa", True, marks=pytest.mark.slow, id="single row"),
    ],
)
def test_the_loss_of_a_batch_is_that_of_its_samples_alone(attention, packing, samples, oracle_dir):
    """However a batch is laid out: packed under a block mask, samples stand in another order in teacher and student."""
    model = load(oracle_dir / "tiny-llava-v1.5", attn_implementation=attention)
    if packing and attention == "sdpa":
        attend_by_sample(model)
    plain = load(oracle_dir / "tiny-llava-v1.5")
    batch = Collator()(samples)
    batch.pop("skipped")
    batch["packing"] = packing
    model.set_compression(STUDENT)
    teacher = Teacher(model, None, WEIGHT, HEAT, from_start=True)
    with teacher.at_work(model):
        teaching = teacher.teach(model, batch)
    assert not teaching.logits.requires_grad and str(model.compression) == STUDENT and model.training
    found = model(**batch, loss_only=True, teaching=teaching)
    assert found.loss.item() == pytest.approx(expected_loss(plain, plain, samples, "none"), rel=1e-5)
    own = model(**batch, loss_only=True).loss
    assert found.target_loss.item() == pytest.approx(own.item(), rel=1e-6)  # the house's own
    assert found.loss.item() != pytest.approx(own.item(), rel=1e-3)


def test_a_teacher_of_other_targets_is_refused(samples, oracle_dir):
    model = load(oracle_dir / "tiny-llava-v1.5", compression=STUDENT)
    batch = Collator()(samples[:1])
    batch.pop("skipped")
    with pytest.raises(ValueError, match=r"^the teacher has logits of 1 targets, and there are \d+$"):
        model(**batch, loss_only=True, teaching=Teaching(torch.zeros(1, 32000), WEIGHT, HEAT))


@pytest.mark.parametrize("who", ["start", pytest.param("current", marks=pytest.mark.slow)])
def test_the_losses_of_a_run_are_those_of_plain_torch(who, flags, data, samples, oracle_dir, tmp_path):
    """Two steps, each of two micro-batches of two samples: before anything is learned, and after."""
    run = distilling(data, distill_teacher=who, per_device_train_batch_size=2, global_batch_size=4)
    base = oracle_dir / "tiny-llava-v1.5"
    found = losses_of(train(flags(**run, max_steps=2, output_dir=tmp_path / "two")))
    train(flags(**run, max_steps=1, output_dir=tmp_path / "one"))
    start, tuned = load(base), load(tmp_path / "one", model_base=base)
    assert found[0] == pytest.approx(expected_loss(start, start, samples, "none"), rel=1e-4)
    teachers = {"start": start, "current": tuned}
    values = {name: expected_loss(tuned, model, samples, "none") for name, model in teachers.items()}
    assert abs(values["start"] - values["current"]) > 1e-3  # the test can tell them apart
    assert found[1] == pytest.approx(values[who], rel=1e-4)


def test_gradients_reach_the_projector_only_and_none_the_teacher(flags, data, oracle_dir, tmp_path):
    trainer = train(flags(**distilling(data, max_steps=2, learning_rate="1e-3")))
    learns = {name for name, parameter in trainer.model.named_parameters() if parameter.grad is not None}
    learns |= {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert learns and all(name.startswith("model.multi_modal_projector.") for name in learns)
    before, after = load(oracle_dir / "tiny-llava-v1.5"), load(tmp_path / "out")
    old, kept = before.state_dict(), trainer.teacher._projector
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in kept.parameters())
    for name, tensor in kept.state_dict().items():  # the teacher is still what the run began with
        assert torch.equal(tensor, old[f"model.multi_modal_projector.{name}"].float())
        assert not torch.equal(after.state_dict()[f"model.multi_modal_projector.{name}"], tensor)
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    parts = (1 - WEIGHT) * entry["target_loss"] + WEIGHT * entry["distill_loss"]
    assert entry["loss"] == pytest.approx(parts, rel=1e-5) and entry["distill_loss"] > 0


def test_a_teacher_without_weight_changes_no_bit(flags, data, tmp_path):
    """And asks for no second pass."""
    common = distilling(data, distill_weight=0, max_steps=3, per_device_train_batch_size=2)
    idle = train(flags(**common, output_dir=tmp_path / "idle"))
    plain = {name: value for name, value in common.items() if not name.startswith("distill")}
    assert losses_of(idle) == losses_of(train(flags(**plain, output_dir=tmp_path / "plain")))
    assert idle.teacher is None


@pytest.mark.slow
def test_half_precision_and_packing_go_with_a_teacher(flags, data):
    run = distilling(data, bf16=True, packing=True, per_device_train_batch_size=2, global_batch_size=4, max_steps=1)
    exact = {**run, "bf16": False, "packing": False}
    half, whole = losses_of(train(flags(**run))), losses_of(train(flags(**exact, resume_from_checkpoint="none")))
    assert half[0] == pytest.approx(whole[0], rel=2e-2) and half != whole
