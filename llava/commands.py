"""The commands of `llava`, in one table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A subcommand of `llava`.

    Attributes:
        name: What follows `llava`.
        module: Has `main()`; `python -m MODULE` is the same command.
        help: What it does, in a line.
    """

    name: str
    module: str
    help: str


COMMANDS: dict[str, tuple[Command, ...]] = {
    "ask a model": (
        Command("ask", "llava.eval.run_llava", "ask one question about images and videos"),
        Command("chat", "llava.serve.cli", "talk about images and videos in the terminal"),
        Command("demo", "llava.serve.demo", "see in the browser which tokens are kept, pick them, compare answers"),
        Command("serve", "llava.serve.api", "answer OpenAI's chat completions, many clients at a time"),
    ),
    "measure": (
        Command("eval", "llava.eval", "answer and score benchmarks under several budgets"),
        Command("compare", "llava.eval.compare", "compare methods at equal budgets, with baselines and costs"),
        Command(
            "budget", "llava.eval.budget", "find the budget for your questions, by what it keeps or how fast it is"
        ),
        Command(
            "calibrate", "llava.eval.calibrate", "find the threshold at which an adaptive budget keeps a wanted mean"
        ),
        Command("reproduce", "llava.eval.reproduce", "make a table of the paper again, beside the paper's figures"),
        Command("prepare-eval", "llava.eval.prepare", "download benchmarks into the layout that eval reads"),
        Command("judge", "llava.eval.judge", "let a judge grade answers to MM-Vet and LLaVA-Bench"),
        Command(
            "report", "llava.eval.report", "make tables and a picture of results; show two sets of answers side by side"
        ),
        Command(
            "doctor", "llava.eval.doctor", "say which questions a budget breaks, from a run's answers; a gate for CI"
        ),
        Command("bench", "llava.analysis.efficiency", "measure the milliseconds of a question under several budgets"),
        Command(
            "cost", "llava.analysis.cost", "count operations, KV memory and least time of a prompt; no weights needed"
        ),
        Command("kept-tokens", "llava.analysis.kept_tokens", "draw which patches of images each budget keeps"),
        Command("redundancy", "llava.analysis.redundancy", "show how a vision tower's attention is spread over images"),
    ),
    "encode once": (
        Command("store", "llava.store", "encode images once, for evaluation, chat, training and engines"),
        Command("embeds", "llava.serve.embeds", "write a question with encoded images for vLLM or LMDeploy"),
    ),
    "train": (
        Command("prepare", "llava.data.prepare", "download LLaVA's training data"),
        Command("validate", "llava.data.validate", "check a data file as training will read it"),
        Command("convert", "llava.data.convert", "write other programs' conversations in LLaVA's form"),
        Command("subset", "llava.data.subset", "draw a seeded part of a data file"),
        Command("train", "llava.train.launch", "train a recipe on the GPUs of this machine"),
    ),
    "publish": (
        Command("merge", "llava.model.merge", "write adapters or a projector merged into their base"),
        Command("export", "llava.hub.export", "write a checkpoint for transformers or for the original LLaVA"),
        Command("card", "llava.hub.card", "write the model card from what a run's files hold"),
        Command("verify", "llava.hub.verify", "load a release in every way it claims to load"),
        Command("refresh", "llava.hub.refresh", "record the files of an export that you have changed"),
        Command("push", "llava.hub.push", "check a release and publish it on the Hub"),
    ),
}


def find_command(name: str) -> Command | None:
    """The command of that name, or None."""
    return next((command for command in all_commands() if command.name == name), None)


def all_commands() -> list[Command]:
    """All of them, group after group."""
    return [command for group in COMMANDS.values() for command in group]
