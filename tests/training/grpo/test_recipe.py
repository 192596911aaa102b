"""The GRPO recipes that ship, and the command line around them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.training.grpo.runs import recipe as small_recipe
from videoreasoner import training
from videoreasoner.cli.main import main
from videoreasoner.errors import SettingError
from videoreasoner.synthetic.videos import VideoSettings, make_videos
from videoreasoner.tasks import Task
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.recipe import Recipe, load_recipe

FOLDER = ROOT / "recipes" / "grpo"
RECIPES = sorted(FOLDER.glob("*.yaml"))
PUBLISHED = {
    "num_generations": 8,
    "learning_rate": 2e-6,
    "lr_scheduler_type": "cosine",
    "weight_decay": 0.01,
    "max_grad_norm": 5.0,
    "beta": 0.04,
    "temperature": 1.0,
    "top_p": 0.95,
    "max_completion_length": 768,
    "num_iterations": 1,
    "loss_type": "grpo",
    "scale_rewards": "group",
    "tasks": [Task.EVENT, Task.ANSWER],
    "rewards": {"event_iou": 1.0, "event_format": 1.0, "accuracy": 1.0},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    make_videos(folder, 2, VideoSettings(duration_s=20.0, fps=8.0, size=32), splits=("plain",))
    return folder


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_the_published_settings_are_the_papers() -> None:
    recipe = load_recipe(FOLDER / "qwen2-vl-7b.yaml", GrpoRecipe)
    assert {name: getattr(recipe, name) for name in PUBLISHED} == PUBLISHED
    assert recipe.settings["frame_budget"] == 80
    assert recipe.settings["max_pixels"] == 60 * 28 * 28
    # What the recipe does not say is what the code does by itself.
    bare = GrpoRecipe(model_name_or_path="m", output_dir="o", data=[{"path": "d"}])
    assert {name: getattr(bare, name) for name in PUBLISHED} == PUBLISHED


@pytest.mark.parametrize("name", ["event-only", "answer-only"])
def test_an_ablation_is_three_lines_over_the_published_recipe(name: str) -> None:
    path = FOLDER / f"{name}.yaml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == 3
    changed = load_recipe(path, GrpoRecipe).model_dump(exclude={"output_dir", "tasks"})
    assert changed == load_recipe(FOLDER / "qwen2-vl-7b.yaml", GrpoRecipe).model_dump(exclude={"output_dir", "tasks"})


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_how_to_run_it_and_what_it_needs(path: Path, videos: Path, capsys) -> None:
    recipe = load_recipe(path, GrpoRecipe)
    head = " ".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    for word in ("hardware", "memory", "time", "score"):
        assert word in head.lower(), word
    assert f"videoreasoner train grpo {path.stem}" in re.sub(r"[\\#\s]+", " ", head)
    large = "Qwen/Qwen2-VL-2B" if "2b" in path.stem else "Qwen/Qwen2-VL-7B"
    model = "tiny" if path.stem == "tiny" else large
    data = f"data=[{{path: {videos / 'plain.jsonl'}}}]"
    code, out, err = run(
        capsys,
        *("train", "grpo", str(path), "--dry-run", "--set", data, "--set", f"model_name_or_path={model}"),
        *("--video-root", str(videos), "--strategy", "zero2", "--devices", "8"),
    )
    assert (code, err) == (0, "")
    completions = len(recipe.tasks) * recipe.num_generations
    rows = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps * 8
    assert f"{rows} rows and up to {rows * completions} completions" in out
    assert ("the reference" in out.splitlines()[0]) == (recipe.lora is None)
    assert f"completions of {recipe.max_completion_length} tokens" in out
    assert f"rollouts of {min(recipe.rollout_batch_size, rows // 8)} row(s) at once" in out


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_runs_on_the_tiny_model(path: Path, videos: Path, tmp_path: Path, capsys) -> None:
    out_dir = tmp_path / "out"
    changes = ["model_name_or_path=tiny", "max_steps=1", "gradient_accumulation_steps=1", "num_generations=2"]
    changes += [f"output_dir={out_dir}", f"data=[{{path: {videos / 'plain.jsonl'}}}]", "dataloader_num_workers=0"]
    changes += ["dtype=float32", "bf16=false", "settings={frame_budget: 4}", "max_completion_length=14"]
    changes += ["per_device_train_batch_size=1", f"frame_cache_dir={tmp_path / 'cache'}", "reward_encoder=tiny-encoder"]
    changes += ["eval_data=[]"]
    options = [part for change in changes for part in ("--set", change)]
    code, _, err = run(capsys, "train", "grpo", str(path), "--video-root", str(videos), *options)
    assert code == 0, err
    [line] = [json.loads(text) for text in (out_dir / "metrics.jsonl").read_text().splitlines()]
    recipe = load_recipe(path, GrpoRecipe)
    assert {f"parse_rate/{task}" for task in recipe.tasks} == {name for name in line if name.startswith("parse_rate/")}


def test_every_setting_is_read_somewhere() -> None:
    own = set(GrpoRecipe.model_fields) - set(Recipe.model_fields)
    source = "".join(path.read_text() for path in (Path(training.__file__).parent).rglob("*.py"))
    unread = {name for name in own if not re.search(rf"recipe\.{name}\b", source)}
    assert own
    assert not unread


def test_the_command_trains_and_the_result_answers(videos: Path, tmp_path: Path, capsys) -> None:
    out_dir = tmp_path / "out"
    changes = ["model_name_or_path=tiny", "max_steps=1", "gradient_accumulation_steps=1"]
    changes += ["per_device_train_batch_size=2", "num_generations=2"]
    changes += [f"output_dir={out_dir}", f"data=[{{path: {videos / 'plain.jsonl'}}}]", "dataloader_num_workers=0"]
    changes += [f"frame_cache_dir={tmp_path / 'cache'}", f"eval_data=[{{path: {videos / 'plain.jsonl'}}}]"]
    options = [part for change in changes for part in ("--set", change)]
    code, out, err = run(capsys, "train", "grpo", str(FOLDER / "tiny.yaml"), "--video-root", str(videos), *options)
    assert code == 0, err
    assert out.strip().endswith(f"{out_dir}: the trained model")
    # Held-out rows are sampled before the first step and after the last, greedily and without the grammar.
    assert {json.loads(text)["step"] for text in (out_dir / "samples.jsonl").read_text().splitlines()} == {0, 1}
    video = str(next((videos / "videos").iterdir()))
    code, out, err = run(capsys, "ask", video, "What color is it?", "--model", str(out_dir), "--mode", "direct")
    assert code == 0, err
    assert out.strip()


def test_a_bad_recipe_is_one_line(videos: Path, capsys) -> None:
    code, _, err = run(capsys, "train", "grpo", str(FOLDER / "tiny.yaml"), "--set", "num_generations=1")
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert "num_generations: 1 completion in a group" in err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_generations": 1}, "num_generations: 1 completion in a group has nothing to be compared with"),
        ({"temperature": 0}, "temperature: Input should be greater than 0"),
        ({"loss_type": "bnpo"}, "loss_type: Input should be 'grpo', 'dr_grpo' or 'dapo'"),
        ({"lora": {"lora_dropout": 0.1}}, "lora.lora_dropout is 0.1"),
        (
            {"lora": {"lora_dropout": 0}, "ref_model": "tiny"},
            "with lora the reference is the model without its adapters",
        ),
        ({"beta": 0, "ref_model": "tiny"}, "beta is 0, so nothing reads a reference"),
        ({"num_iterations": 4}, "save_steps is 2, no multiple of num_iterations (4)"),
        ({"num_generation": 8}, "there is no key num_generation; did you mean num_generations?"),
    ],
)
def test_recipes_that_make_no_sense(changes, message, videos, tmp_path) -> None:
    with pytest.raises(SettingError) as caught:
        small_recipe(videos, tmp_path / "out", **changes)
    assert message in str(caught.value)
