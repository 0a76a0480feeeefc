"""RESTORE against recorded outputs of its public code: what is merged, where it stands, logits and answers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from llava.model.configuration import CompressionConfig
from llava.model.multimodal_compressor import CompressedTokens, VisionFeatures, get_compressor
from llava.model.multimodal_compressor.divprune import distances, farthest
from llava.model.multimodal_compressor.greedy import cosine
from llava.model.multimodal_compressor.restore import restore
from llava.model.restore import PlacedRows, PlacedTokens
from llava.model.restore.bias import decay
from llava.model.restore.reading import read_restored, read_restored_answer
from tests.model.language_pruning.traced import close, recorded_llama, same_answer
from tests.model.methods.recorded import FOLDER, Recording, make_features

IMAGE_START = 35
"""The public code's constant: every recorded image stands there."""
LEAST_MARGIN = 1e-6
MERGED = ("retained", "group_of_source", "sizes", "positions_median", "tokens")


def restored(features: VisionFeatures, budget: str) -> CompressedTokens:
    """What the seam would get of projected rows."""
    config = CompressionConfig.parse(f"{budget},positions=restore")
    return get_compressor(config.method).bind(config)(features)


def at_projector(case: str) -> VisionFeatures:
    features = make_features(case, slice(0, 1))
    return replace(features, content=features.projected, has_cls=False)


def margin(rows: Tensor, retained: Tensor, anchors: int) -> float:
    """In double precision: how near the last anchor is to the next one, and a patch to a second anchor."""
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    free = torch.ones(len(rows), dtype=torch.bool)
    free[retained] = False
    similarity = (unit @ unit.T)[free][:, free]
    total = similarity.sum(dim=1)
    nearest = torch.where(total < total.unsqueeze(1), similarity, 0.0).amax(dim=1)
    best = (total * (1 - nearest)).sort(descending=True)
    left = torch.ones(len(similarity), dtype=torch.bool)
    left[best.indices[:anchors]] = False
    cut = ((best.values[anchors - 1] - best.values[anchors]) / best.values[0]).item() if left.any() else 1.0
    joined = similarity[left][:, ~left].sort(dim=1).values
    return min(cut, (joined[:, -1] - joined[:, -2]).min().item()) if anchors > 1 and left.any() else cut


def is_same_merging(recorded: Recording, case: str, found: CompressedTokens) -> bool:
    wanted = {name: recorded[f"{case}/{name}"] for name in MERGED}
    label = found.assignment[0]
    alone = found.sizes[0, label[wanted["retained"]]]
    return bool(
        np.array_equal(label, wanted["group_of_source"])
        and np.array_equal(found.sizes[0], wanted["sizes"])
        and np.array_equal(found.positions[0] + IMAGE_START, wanted["positions_median"])
        and (alone == 1).all()
        and close(found.tokens[0], wanted["tokens"])
    )


@dataclass
class Told:
    """A recorded prompt with the tokens of its image, and the Llama that read it."""

    model: LlamaForCausalLM
    embeds: Tensor
    rows: PlacedRows

    @classmethod
    def of(cls, whole: Tensor, length: int, tokens: PlacedTokens) -> Told:
        embeds = torch.cat([whole[:IMAGE_START], tokens, whole[IMAGE_START + length :]])[None]
        places = torch.full(embeds.shape[:2], -1)
        places[:, IMAGE_START : IMAGE_START + len(tokens)] = torch.arange(len(tokens))
        return cls(llama_of_text(whole[:IMAGE_START]), embeds, PlacedRows.locate(places, None, [tokens]))

    @torch.inference_mode()
    def answer(self, count: int) -> tuple[Tensor, list[int], Tensor, list[int]]:
        """Logits of the prompt, greedy ids, the logits that they are of, and the positions of all but the last."""
        decoder, head = self.model.model, self.model.lm_head
        output = read_restored(decoder, self.embeds, self.rows)
        logits = head(output.last_hidden_state)[0]
        said, ids, positions = [logits[-1]], [int(logits[-1].argmax())], []
        while len(ids) < count:
            embeds = self.model.get_input_embeddings()(torch.tensor([[ids[-1]]]))
            positions.append(int(output.past_key_values.next_step()[0]))
            output = read_restored_answer(decoder, embeds, output.past_key_values)
            said.append(head(output.last_hidden_state)[0, -1])
            ids.append(int(said[-1].argmax()))
        return logits, ids, torch.stack(said), positions


def are_among(rows: Tensor, others: Tensor) -> bool:
    return bool((rows.unsqueeze(1) == others).all(dim=2).any(dim=1).all())


def llama_of_text(embeds: Tensor) -> LlamaForCausalLM:
    """The recorded Llama whose embeddings these rows are."""
    for file in sorted(FOLDER.glob("llama_*.json")):
        model = recorded_llama(file.stem.removeprefix("llama_"))
        table = model.get_input_embeddings().weight.detach()
        if table.shape[1] == embeds.shape[1] and are_among(embeds, table):
            return model
    raise AssertionError(f"no Llama of {FOLDER} has these embeddings")


def image_of(whole: Tensor, recorded: Recording, case: str) -> Tensor:
    """The recorded rows of an image: what the reduced prompt is shorter by, and what it has kept."""
    kept = len(recorded[f"{case}/sizes"])
    return whole[IMAGE_START : IMAGE_START + len(whole) - len(recorded[f"{case}/reduced_embeds"]) + kept]


def tokens_of(image: Tensor, count: int, *, restores: bool) -> PlacedTokens:
    """An image's tokens by DivPrune; not restored, they stand as they were chosen, as if there had been no others."""
    if not restores:
        order = farthest(distances(image[None]), count)[0]
        return PlacedTokens.of(image[order], torch.arange(count), torch.ones(count), count)
    features = VisionFeatures(image[None], (1, len(image)), False, image[None], True, projected=image[None])
    found = restored(features, f"divprune:{count}")
    return PlacedTokens.of(found.tokens[0], found.positions[0], found.sizes[0], len(image))


def is_same_reading(recorded: Recording, case: str) -> bool:
    whole = torch.from_numpy(recorded["b/inputs_embeds"])
    image, restores = image_of(whole, recorded, case), case.endswith("restore")
    tokens = tokens_of(image, len(recorded[f"{case}/sizes"]), restores=restores)
    told = Told.of(whole, len(image), tokens)
    if not restores:  # read as ever: no token says anything of distances
        told.rows = replace(told.rows, has_image=torch.zeros_like(told.rows.has_image))
    logits, ids, said, positions = told.answer(len(recorded[f"{case}/generated"]))
    singles = image[torch.from_numpy(recorded[f"{case}/retained"]).long()]
    return bool(
        close(told.embeds[0], recorded[f"{case}/reduced_embeds"])
        and np.array_equal(tokens.sizes, recorded[f"{case}/sizes"])
        and np.array_equal(told.rows.positions[0], recorded[f"{case}/positions"])
        and are_among(singles, told.embeds[0])
        and close(logits[-8:], recorded[f"{case}/logits_last8"])
        and np.array_equal(logits.argmax(dim=1), recorded[f"{case}/logits_argmax"])
        and positions == recorded[f"{case}/decode_positions"].tolist()
        and same_answer(ids, said, recorded, f"{case}/generated")
    )


def test_every_recorded_case():
    recorded = Recording("restore")
    for group in recorded.groups("group_of_source"):
        case, method, name = group.split("/")
        features, budget = at_projector(case), int(name.removeprefix("n"))
        # Its own margins are those of other anchors; see `anchor_scores`.
        _ = recorded[f"{group}/anchor_margin_rel"], recorded[f"{group}/assign_margin"]
        retained = torch.from_numpy(recorded[f"{group}/retained"]).long()
        near = margin(features.projected[0], retained, budget - len(retained)) < LEAST_MARGIN
        same = is_same_merging(recorded, group, restored(features, f"{method}:{budget}"))
        recorded.compare(group, same, near_tie=near)
    for case in recorded.groups("reduced_embeds"):
        recorded.compare(case, is_same_reading(recorded, case))
    table = recorded["decay_table"]
    recorded.compare("decay_table", close(decay(torch.arange(len(table))), table))
    recorded.finish()


def some_rows(seed: int = 0, batch: int = 3, patches: int = 48, width: int = 24) -> Tensor:
    return torch.randn(batch, patches, width, generator=torch.Generator().manual_seed(seed))


def test_no_patch_is_lost_and_a_tile_is_alike_in_any_batch():
    rows = some_rows()
    chosen = torch.stack([torch.randperm(48, generator=torch.Generator().manual_seed(i))[:6] for i in range(3)])
    together = restore(rows, chosen, 12)
    assert together.sizes.sum(dim=1).tolist() == [48] * 3
    assert (together.positions.diff(dim=1) > 0).all()
    for tile in range(3):
        alone = restore(rows[tile : tile + 1], chosen[tile : tile + 1], 12)
        assert torch.equal(alone.positions[0], together.positions[tile])
        torch.testing.assert_close(alone.tokens[0], together.tokens[tile])
        for place in range(12):
            members = (together.assignment[tile] == place).nonzero().flatten()
            assert int(together.positions[tile, place]) == members.tolist()[(len(members) - 1) // 2]
            torch.testing.assert_close(rows[tile, members].mean(dim=0), together.tokens[tile, place])


@pytest.mark.parametrize("chosen", [[3, 3, 3, 7, 9, 7], [5, 8, -1, -1, 11, 2]])
def test_a_patch_that_is_chosen_twice_or_not_at_all_leaves_room_for_an_anchor(chosen):
    found = restore(some_rows(batch=1), torch.tensor([chosen]), 12)
    kept = {index for index in chosen if index >= 0}
    alone = found.sizes[0, found.assignment[0, sorted(kept)]]
    assert (alone == 1).all() and (found.sizes > 0).all() and int(found.sizes.sum()) == 48


def test_gradients_reach_every_row_and_no_choice():
    rows = some_rows(batch=1).requires_grad_()
    restore(rows, torch.tensor([[1, 4, 7]]), 8).tokens.sum().backward()
    assert (rows.grad.abs().sum(dim=2) > 0).all()


def test_all_tokens_of_a_tile():
    rows = some_rows(batch=1)
    found = restore(rows, torch.arange(24)[None], 48)
    assert torch.equal(found.tokens, rows) and torch.equal(found.positions[0], torch.arange(48))


def test_anchors_are_apart_from_those_that_are_alike_to_fewer():
    """The direction that the records decide; the other one gives other groups."""
    features = at_projector("synth60")
    similarity = cosine(features.projected)
    found = restored(features, "divprune:16")
    total = similarity.sum(dim=2)
    nearest = torch.where(total.unsqueeze(1) > total.unsqueeze(2), similarity, 0.0).amax(dim=2)
    other = (total * (1 - nearest)).topk(8).indices
    assert len(found.assignment[0, other[0]].unique()) < 8
