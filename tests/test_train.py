"""`clamr-bench train` as a user gives it: it learns, resumes to the bit, and loses nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from harness.encoder import Trainable
from harness.registry import make_retriever, make_task
from harness.results import ResultsStore
from harness.results.schema import Result
from harness.team import Team
from harness.training import checkpoint
from harness.training.batches import Batches
from harness.training.data import load
from harness.training.recipe import Recipe
from harness.training.step import Step
from tests.conftest import Command
from tests.training_cases import RECIPE, write

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    task, retriever, recipe = write(tmp_path)
    return ["train", "--task", task, "--retriever", retriever, "--recipe", recipe]


def folders(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.rglob("log.jsonl"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model/bag.pt", weights_only=True)  # type: ignore[no-any-return]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def results(tmp_path: Path) -> list[Result]:
    return [run.result for run in ResultsStore(tmp_path / "results").runs()]


def test_it_learns_and_ends_with_a_result(
    bench: Command, command: list[str], tmp_path: Path
) -> None:
    assert bench("run", *command[1:5]).status == 0
    (before,) = results(tmp_path)
    assert before.retriever.untrained
    outcome = bench(*command)
    assert outcome.status == 0, outcome.err
    (folder,) = folders(tmp_path / "trained")
    steps = [row for row in rows(folder) if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, len(steps) + 1))
    assert steps[-1]["loss"] < steps[8]["loss"] / 1.5, "of whole documents"
    judged = [row for row in rows(folder) if "validation" in row]
    assert [row["step"] for row in judged] == [20, 40, len(steps)]

    (after,) = (one for one in results(tmp_path) if one.run_id != before.run_id)
    assert not after.retriever.untrained
    assert after.measures["nDCG@10"].mean > before.measures["nDCG@10"].mean + 0.2
    training = after.retriever.training
    assert training is not None
    assert training.task == command[2]
    assert training.steps == len(steps)
    best = max(judged, key=lambda row: row["validation"]["nDCG@10"])
    assert training.best_step == best["step"]
    assert training.validation == best["validation"]
    assert after.retriever.overlap is not None
    assert (after.retriever.overlap.documents, after.retriever.overlap.queries) == (0, 0)
    assert f"trained: {(folder / 'model').relative_to(tmp_path)}" in outcome.out
    card = (folder / "model/README.md").read_text()
    assert training.data_fingerprint[:12] in card
    assert "MIT" in card
    saved = Recipe.model_validate(yaml.safe_load((folder / "model/recipe.yaml").read_text()))
    assert saved.optimiser.lr == 0.05
    seen = json.loads((folder / "model/trained_on.json").read_text())
    assert len(seen["documents"]) == training.documents

    again = bench(*command)
    assert again.status == 0, again.err
    assert again.err.count("complete already") == 1
    assert len(results(tmp_path)) == 2, "the run was complete, too"


def test_the_overlap_is_counted_where_there_is_some(
    bench: Command, command: list[str], tmp_path: Path
) -> None:
    assert bench(*command).status == 0
    (folder,) = folders(tmp_path / "trained")
    path = folder / "model/trained_on.json"
    seen = json.loads(path.read_text())
    seen["documents"] += ["d3", "d4"]  # of the split test
    path.write_text(json.dumps(seen))
    address = f"{command[4]}/{folder}/model"
    assert bench("run", *command[1:3], "--retriever", address, "--again").status == 0
    newest = max(results(tmp_path), key=lambda one: (one.created, one.run_id))
    overlaps = [one.retriever.overlap for one in results(tmp_path)]
    assert sorted(o.documents for o in overlaps if o is not None) == [0, 2]
    assert newest.retriever.training is not None
    path.unlink()
    bench("run", *command[1:3], "--retriever", address, "--again").fails(
        "trained_on.json", "copy the whole folder"
    )


# --- Killed and resumed -----------------------------------------------------------------------


KILLED = """
import os, sys
import harness.training.trainer as trainer
plain = trainer.Trainer._one
def dies(self, number):
    if number == {step}:
        os.kill(os.getpid(), 9)
    return plain(self, number)
trainer.Trainer._one = dies
from harness.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def killed(command: list[str], step: int, cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED.format(step=step), *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=cwd, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr


def test_what_was_killed_goes_on_to_the_same_bits(
    bench: Command, command: list[str], tmp_path: Path
) -> None:
    assert bench(*command, "--to", tmp_path / "straight").status == 0
    (straight,) = folders(tmp_path / "straight")
    for step in (2, 13, 41):  # before any checkpoint, between two, after the best weights
        killed([*command, "--to", str(tmp_path / "killed")], step, tmp_path)
    outcome = bench(*command, "--to", tmp_path / "killed")
    assert outcome.status == 0, outcome.err
    assert "goes on after step 40" in outcome.err
    (resumed,) = folders(tmp_path / "killed")
    assert resumed.name == straight.name
    for name, tensor in weights(straight).items():
        assert torch.equal(weights(resumed)[name], tensor), name
    timeless = [
        [{k: v for k, v in row.items() if "second" not in k} for row in rows(folder)]
        for folder in (straight, resumed)
    ]
    assert timeless[0] == timeless[1]


def test_a_full_disk_leaves_the_checkpoint_before(
    bench: Command, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, writes = checkpoint.write_weights, [0]

    def full(folder: Path, trained: Any) -> None:
        writes[0] += 1
        if writes[0] == 3:
            (folder / "weights.safetensors").write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        plain(folder, trained)

    monkeypatch.setattr(checkpoint, "write_weights", full)
    bench(*command).fails("disk is full", "same command again")
    (folder,) = folders(tmp_path / "trained")
    found = checkpoint.newest(folder)
    assert found is not None
    assert found.step == 8
    found.weights()
    assert not list(folder.glob(".*.tmp"))
    outcome = bench(*command)
    assert outcome.status == 0, outcome.err
    assert "goes on after step 8" in outcome.err


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(
    bench: Command, command: list[str], tmp_path: Path
) -> None:
    words = (tmp_path / "bag.py").read_text()
    assert "broken" in words
    outcome = bench(*command, "--set", "Bag.broken=xw7")
    outcome.fails("the loss is nan", "Its documents: d1", "recipe.optimiser.lr")
    (folder,) = folders(tmp_path / "trained")
    found = checkpoint.newest(folder)
    assert found is not None
    assert all(torch.isfinite(tensor).all() for tensor in found.weights().values())
    assert not (folder / "model").exists()


def test_a_checkpoint_of_another_training_is_refused(
    bench: Command, command: list[str], tmp_path: Path
) -> None:
    assert bench(*command).status == 0
    (folder,) = folders(tmp_path / "trained")
    shutil.rmtree(folder / "model")
    (state,) = folder.glob("step-*/state.json")
    values = json.loads(state.read_text())
    state.write_text(json.dumps({**values, "identity": "other"}))
    bench(*command).fails("is of another training", "--to")
    state.write_text(json.dumps(values))
    tensors = state.with_name("weights.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-8])
    bench(*command).fails("weights.safetensors cannot be read")


def test_what_changes_the_weights_is_another_training(
    bench: Command, command: list[str], tmp_path: Path
) -> None:
    short = [*command, "--set", "recipe.phases=[{steps: 2}]"]
    for change in ((), ("--seed", "1"), ("--set", "recipe.optimiser.lr=0.01")):
        assert bench(*short, *change).status == 0
    assert len(folders(tmp_path / "trained")) == 3


# --- Gradients --------------------------------------------------------------------------------


def gradients(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> dict[str, torch.Tensor]:
    """The gradient of the first step of whole documents, without dropout."""
    values = yaml.safe_load(RECIPE)
    change(values)
    recipe = Recipe.model_validate(values)
    task, retriever, _ = write(tmp_path)
    made = make_retriever(retriever)
    encoder = made.encoder  # type: ignore[attr-defined]
    assert isinstance(encoder, Trainable)
    from harness.progress import Progress

    batches = Batches(load(make_task(task), recipe.validation, None, Progress()).train, recipe)
    encoder.module.eval()
    trained = dict(encoder.module.named_parameters())
    step = Step(encoder, recipe, torch.tensor(-2.0), Team())
    step.gradients(batches.batch(9), trained.values())
    return {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}


def test_chunks_change_memory_and_not_gradients(tmp_path: Path) -> None:
    whole = gradients(tmp_path, lambda values: None)
    chunked = gradients(tmp_path, lambda values: values["batch"].update(chunk=5))
    assert whole.keys() == chunked.keys()
    for name, gradient in whole.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(chunked[name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_two_processes_train_as_one(command: list[str], tmp_path: Path) -> None:
    """Same batches, negatives from both: the weights of one process to 1e-5."""
    found = []
    # Without dropout, whose masks depend on the process.
    plugin = tmp_path / "bag.py"
    plugin.write_text(plugin.read_text().replace("Dropout(0.1)", "Dropout(0.0)"))
    for number, launch in enumerate(
        ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"])
    ):
        arguments = [*command, "--to", str(tmp_path / f"of{number}")]
        script = [
            "-c",
            "from harness.cli.main import main; import sys; sys.exit(main(sys.argv[1:]))",
        ]
        target = ["--no-python", str(Path(sys.executable).with_name("clamr-bench"))]
        done = subprocess.run(
            [sys.executable, *(launch + target if launch else script), *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=tmp_path, capture_output=True,
            text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (folder,) = folders(tmp_path / f"of{number}")
        found.append((folder, weights(folder)))
    for name, tensor in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], tensor, rtol=1e-5, atol=1e-5)
    losses = [[row["loss"] for row in rows(folder) if "loss" in row] for folder, _ in found]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


# --- What cannot be ---------------------------------------------------------------------------


def test_mistakes_are_told_before_any_work(
    bench: Command, command: list[str], tmp_path: Path
) -> None:
    task, retriever, recipe = command[2], command[4], command[6]

    def train(*more: str, task: str = task, retriever: str = retriever) -> Any:
        return bench("train", "--task", task, "--retriever", retriever, "--recipe", recipe, *more)

    train("--set", "recipe.optimiser.rate=1").fails("optimiser.rate")
    train("--set", "Bog.broken=x").fails("settings are given for 'Bog'")
    train(task=task.replace("Renamed", "Untrainable")).fails("has nothing to train on")
    train(retriever=retriever.replace("Bag", "Fixed")).fails("cannot be trained")
    train(retriever="bm25-asr").fails("cannot be trained", "add-a-retriever")
    train("--track", "mlflow").fails("choose trackio or wandb")
    bench("train", "--recipe", recipe, "--retriever", retriever).fails("--task")
    bench(*command[:-1], "cpu-tinny").fails("no recipe 'cpu-tinny'", "Did you mean 'cpu-tiny'")
    train("--set", "recipe.phases=[{steps: 1, modality: {video: 1}}]").fails("have video")
    assert not list(tmp_path.rglob("log.jsonl"))


def test_a_recipe_is_shown_as_it_was_written(bench: Command) -> None:
    shown = bench("train", "--recipe", "a100-qlora", "--show")
    assert shown.status == 0
    assert "# paper" in shown.out
    changed = bench(
        "train", "--recipe", "cpu-tiny", "--show", "--set", "recipe.optimiser.lr=0.5", "--seed", "3"
    )
    values = yaml.safe_load(changed.out)
    assert values["optimiser"]["lr"] == 0.5
    assert values["seed"] == 3


def test_a_plan_says_what_it_takes(bench: Command, command: list[str], tmp_path: Path) -> None:
    shown = bench(*command, "--plan")
    assert shown.status == 0, shown.err
    assert "3,472" in shown.out, "200 x 16 + 16 x 16 + 16 parameters"
    assert "steps" in shown.out
    assert not (tmp_path / "trained").exists()


def test_the_plan_of_the_paper_needs_no_weights(bench: Command, command: list[str]) -> None:
    shown = bench(*command[:4], "clamr", "--recipe", "a100-qlora", "--plan")
    assert shown.status == 0, shown.err
    assert "239,747,072 parameters in 506 tensors" in shown.out


def test_an_encoder_that_lacks_a_part_is_told_which(
    bench: Command, command: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "bag.py"
    path.write_text(path.read_text().replace("def save(", "def keep("))
    bench(*command).fails("declares `trainable`", "asks for: save")


def test_figures_go_to_a_tracker(
    bench: Command, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb.py").write_text(
        "rows = []\n"
        "def init(**card): rows.append(card)\n"
        "def log(figures, step): rows.append((step, figures))\n"
        "def finish(): rows.append('finished')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    assert bench(*command, "--track", "wandb", "--set", "recipe.phases=[{steps: 3}]").status == 0
    card, *steps, last = sys.modules["wandb"].rows
    monkeypatch.delitem(sys.modules, "wandb")
    assert card["project"] == "clamr-bench"
    assert last == "finished"
    assert [step for step, figures in steps if "loss" in figures] == [1, 2, 3]
    assert any("validation/nDCG@10" in figures for _, figures in steps)


def test_best_weights_are_those_that_are_kept(
    bench: Command, command: list[str], tmp_path: Path
) -> None:
    """With a learning rate that ruins the weights in the end, the best ones are from before."""
    ruin = ("--set", "recipe.phases=[{steps: 10}, {steps: 10}]", "--set",
            "recipe.optimiser.schedule=constant", "--set", "recipe.validation.every=5")  # fmt: skip
    assert bench(*command, *ruin).status == 0
    (folder,) = folders(tmp_path / "trained")
    judged = [row for row in rows(folder) if "validation" in row]
    best = max(judged, key=lambda row: row["validation"]["nDCG@10"])
    kept = load_file(folder / "best/weights.safetensors")
    for name, tensor in weights(folder).items():
        assert torch.equal(kept[name], tensor)
    training = json.loads((folder / "model/training.json").read_text())
    assert training["best_step"] == best["step"]
