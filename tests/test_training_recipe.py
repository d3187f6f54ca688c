"""Recipes: by name or path, fields changed one by one, mistakes named; the published values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.errors import UsageError
from harness.registry import RETRIEVERS
from harness.settings import parse_assignments
from harness.training import recipes
from harness.training.recipe import Recipe


def refused(*words: str, recipe: str = "cpu-tiny", **changes: Any) -> None:
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    with pytest.raises(UsageError) as error:
        recipes.load(recipe, dotted)
    for word in words:
        assert word in str(error.value), str(error.value)


def test_the_recipes_that_come_with_it() -> None:
    assert recipes.names() == [
        "a100-lora", "a100-preflmr", "a100-qlora", "cpu-tiny", "cpu-tiny-preflmr",
    ]  # fmt: skip
    for name in recipes.names():
        assert isinstance(recipes.load(name), Recipe)


def test_the_published_training() -> None:
    recipe = recipes.load("a100-qlora")
    adapter, optimiser = recipe.adapter, recipe.optimiser
    assert (adapter.kind, adapter.rank, adapter.alpha, adapter.dropout) == ("lora", 128, 128, 0.1)
    assert adapter.init == "gaussian"
    assert (optimiser.name, optimiser.lr) == ("paged_adamw_8bit", 1e-5)
    assert (optimiser.schedule, optimiser.warmup, optimiser.weight_decay) == ("linear", 0.1, 0.01)
    assert (recipe.loss.name, recipe.loss.aggregations) == ("contrastive", ("modality_max",))
    assert (recipe.loss.temperature, recipe.loss.learn_temperature) == (0.02, False)
    assert (recipe.batch.documents, recipe.batch.queries) == (16, 1)
    assert [phase.epochs for phase in recipe.phases] == [1]
    assert recipe.precision == "bf16"
    settings = recipe.settings["clamr"]
    assert (settings["quantise"], settings["frames"]) == ("4bit", 10)
    assert settings["max_pixels"] == 224 * 224
    assert {settings[f"{text}_length"] for text in ("ocr", "asr", "description")} == {256}
    assert recipe.settings["clamr-pooled"] == settings


@pytest.mark.parametrize("name", ["a100-lora", "a100-qlora"])
def test_every_value_of_the_published_training_has_its_source_beside_it(name: str) -> None:
    published = recipes.show(name).split("  colqwen:")[0].split("adapter:")[1]
    values = [line for line in published.splitlines() if ": " in line.split("#")[0].strip()]
    values.remove("  clamr: &clamr")
    assert len(values) > 40
    for line in values:
        said = line.partition("#")[2]
        sources = ("paper", "code", "card", "not published", "Trainer", "Choice", "as these")
        assert any(word in said for word in sources), line


def test_the_two_recipes_for_gpus_differ_by_quantisation_alone() -> None:
    packed, plain = (recipes.load(n).model_dump() for n in ("a100-qlora", "a100-lora"))
    for values in packed["settings"].values():
        assert values.pop("quantise") == "4bit"
    assert packed.pop("about") != plain.pop("about")
    assert packed == plain


def test_the_recipe_for_a_laptop() -> None:
    recipe = recipes.load("cpu-tiny")
    assert recipe.adapter.kind == "full"
    assert (recipe.optimiser.lr, recipe.optimiser.betas) == (1e-3, (0.9, 0.98))
    assert (recipe.optimiser.warmup, recipe.optimiser.final) == (40, 0.02)
    first, second = recipe.phases
    assert first.modality is not None
    weights = sum(first.modality.values())
    shares = {name: weight / weights for name, weight in first.modality.items()}
    assert shares == {"video": 0.5, "asr": 1 / 6, "ocr": 1 / 6, "description": 1 / 6}
    assert (first.steps, second.steps, second.targets) == (500, 400, ("video",))
    assert recipe.precision == "fp32"


@pytest.mark.parametrize("name", recipes.names())
def test_retrievers_know_the_settings_of_a_recipe(name: str) -> None:
    for retriever, values in recipes.load(name).settings.items():
        settings = RETRIEVERS.find(retriever).plugin.Settings
        made = settings(**values)
        for key, value in values.items():
            assert getattr(made, key) == value, (retriever, key)


def test_what_is_shown_is_the_file_with_its_comments() -> None:
    shown = recipes.show("a100-qlora")
    assert "# paper" in shown
    assert Recipe.model_validate(yaml.safe_load(shown)) == recipes.load("a100-qlora")


def test_what_is_shown_with_changes_is_the_recipe_that_is_used() -> None:
    changes = {"optimiser.lr": "1e-4", "settings.clamr.frames": 3}
    shown = recipes.show("a100-qlora", changes)
    assert "#" not in shown
    found = Recipe.model_validate(yaml.safe_load(shown))
    assert found == recipes.load("a100-qlora", changes)
    assert found.optimiser.lr == 1e-4
    assert found.settings["clamr"]["frames"] == 3
    assert found.settings["clamr"]["quantise"] == "4bit"


def test_one_field_changes_and_the_others_stay() -> None:
    before = recipes.load("a100-qlora")
    phases = [{"epochs": 5}]
    after = recipes.load("a100-qlora", {"optimiser": {"lr": 0.5}, "phases": phases, "seed": 7})
    assert after.optimiser == before.optimiser.model_copy(update={"lr": 0.5})
    assert [phase.epochs for phase in after.phases] == [5]
    assert after.seed == 7
    assert after.adapter == before.adapter


def test_changes_of_the_command_line() -> None:
    words = "recipe.seed=3 recipe.optimiser.lr=0.5 clamr.frames=2 recipe.settings.clip.frames=1"
    given = parse_assignments(words.split())
    assert recipes.taken(given) == {"seed": 3, "optimiser.lr": 0.5, "settings.clip.frames": 1}
    assert given == {"clamr": {"frames": 2}}


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("# short\nbatch: {documents: 3}\n", encoding="utf-8")
    assert recipes.load(str(path)).batch.documents == 3
    assert recipes.show(str(path)) == path.read_text(encoding="utf-8")


def test_no_such_recipe() -> None:
    refused("no recipe 'a100-qlore'", "Did you mean 'a100-qlora'?", recipe="a100-qlore")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", ["not YAML", "line 1"]),
        ("just words", ["not a mapping"]),
        ("", ["not a mapping"]),
        ("batch: 3", ["batch = 3"]),
        ("schema_version: 2", ["schema_version = 2"]),
        ("optimizer: {lr: 1}", ["'optimizer'", "Did you mean 'optimiser'?"]),
        ("phases: [{steps: 1}, {step: 1}]", ["'phases.1.step'", "Did you mean 'phases.1.steps'?"]),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    refused("mine.yaml", *words, recipe=str(path))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    refused("cannot be read", recipe=str(tmp_path))
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\xff")
    refused("cannot be read", recipe=str(path))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("optimiser.lrate", 1, ["unknown field 'optimiser.lrate'", "'optimiser.lr'", "known:"]),
        ("optimizer.lr", 1, ["unknown field 'optimizer'", "'optimiser'"]),
        ("phases.0.steps", 1, ["recipe.phases is a list, which is set whole"]),
        ("optimiser.lr", -1, ["optimiser.lr = -1", "greater than 0"]),
        ("optimiser.betas", [0.9, 1], ["optimiser.betas.1 = 1"]),
        ("adapter.dropout", 1, ["adapter.dropout = 1"]),
        ("loss.name", "triplet", ["loss.name = 'triplet'", "pairwise"]),
        ("phases", [{"steps": 1, "epochs": 1}], ["phases.0", "either steps or epochs"]),
        ("phases", [{"steps": 1, "modality": {"vido": 1}}], ["phases.0", "vido", "video"]),
        ("phases", [{"steps": 1, "modality": {"ocr": 0}}], ["phases.0", "one is above 0"]),
        ("phases", [{"steps": 1, "modality": {"ocr": -1, "asr": 2}}], ["at least 0"]),
        ("phases", [], ["phases = []"]),
        ("batch.documents", "many", ["batch.documents = 'many'"]),
    ],
)
def test_a_change_that_cannot_be(field: str, value: Any, words: list[str]) -> None:
    refused("recipe", *words, **{field.replace(".", "__"): value})
