"""The recipe of the shipped checkpoints: `tiny-base`, `tiny` and `tiny-encoder`."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from experiments.tiny.encoder_training import train_encoder
from experiments.tiny.lessons import LessonKind, LessonSettings
from experiments.tiny.pretraining import train
from experiments.tiny.vocabulary import learn_tokenizer
from videoreasoner.models.attention import IMPLEMENTATION
from videoreasoner.models.checkpoint import save_checkpoint
from videoreasoner.models.event_tokens import add_event_tokens, extend_tokenizer
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.prompts import Prompts
from videoreasoner.settings import Settings
from videoreasoner.synthetic.world import WorldSettings
from videoreasoner.tasks import Task
from videoreasoner.video.patches import PatchSettings

_PIXELS = 32 * 32
_HIDDEN = 128

PROMPTS = Prompts(
    system="Watch the video.",
    instruction="",
    options_header="",
    # A model this small cannot learn to point at a letter, but it can say the word.
    answer_style="words",
    prefixes={
        Task.EVENT: "I want to locate the key event in the video. ",
        Task.KEY_ELEMENTS: "I want to output the key elements:",
        Task.ANSWER: "The answer is:",
    },
)
SETTINGS = Settings(
    frame_budget=32,
    # Trained on 32 frames whatever the length, so short videos get as many.
    sparse_rate_fps=8.0,
    min_pixels=_PIXELS,
    max_pixels=_PIXELS,
    encoder="tiny-encoder",
    retrieval_rate_fps=2.0,
    max_new_tokens=48,
    prompts=PROMPTS,
)
PATCHES = PatchSettings(
    patch_size=8,
    min_pixels=_PIXELS,
    max_pixels=_PIXELS,
    image_mean=(0.3, 0.3, 0.3),
    image_std=(0.3, 0.3, 0.3),
)


def new_model(tokenizer: Qwen2Tokenizer, seed: int = 0) -> Any:
    """A random Qwen2-VL of 1.3 M parameters. Its wide initialisation is what lets it learn colours at all."""
    ids = tokenizer.convert_tokens_to_ids
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": 512,
            "hidden_size": _HIDDEN,
            "intermediate_size": 3 * _HIDDEN,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 8192,
            "initializer_range": 0.05,
            "bos_token_id": ids("<|endoftext|>"),
            "eos_token_id": ids("<|im_end|>"),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1000.0,
                "mrope_section": [8, 4, 4],
            },
        },
        vision_config={
            "depth": 2,
            "embed_dim": 96,
            "hidden_size": _HIDDEN,
            "num_heads": 4,
            "mlp_ratio": 3,
            "patch_size": PATCHES.patch_size,
            "initializer_range": 0.05,
        },
        video_token_id=ids("<|video_pad|>"),
        image_token_id=ids("<|image_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
        initializer_range=0.05,
        attn_implementation=IMPLEMENTATION,
    )
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = ids("<|im_end|>")
    model.generation_config.pad_token_id = ids("<|endoftext|>")
    return model


@dataclass(frozen=True)
class Stage:
    """One stretch of training.

    Attributes:
        name: names its folder.
        lessons: what is taught.
        steps, videos_a_step, learning_rate, seed, decay_over, train_vision: how; see `train`.
        events, event_share: fewest and most events a video, shortest and longest.
        focused_share: share of videos looked at with dense frames around one event.
    """

    name: str
    lessons: LessonKind
    steps: int
    videos_a_step: int
    learning_rate: float
    seed: int
    decay_over: int | None = None
    train_vision: bool = True
    events: tuple[int, int] = (2, 3)
    event_share: tuple[float, float] = (0.10, 0.28)
    focused_share: float = 0.5


# What things look like, from two pairs of frames; then whole videos, described with times.
BASE_STAGES = (
    Stage("glances", "glances", 1000, 48, 7e-4, seed=2),
    Stage("captions", "captions", 700, 24, 5e-4, seed=0),
)
# The tasks; then videos with one event, where the time of what is seen can be learned without telling objects apart;
# then all videos; then once more those where objects have to be told apart.
TASK_STAGES = (
    Stage("tasks", "tasks", 800, 24, 5e-4, seed=1, decay_over=2600),
    Stage(
        "one-event", "tasks", 600, 24, 5e-4, seed=3,
        decay_over=4000, train_vision=False, events=(1, 1), focused_share=0.1,
    ),
    Stage(
        "all-videos", "tasks", 2600, 24, 5e-4, seed=4,
        train_vision=False, events=(1, 3), event_share=(0.12, 0.35), focused_share=0.35,
    ),
    Stage(
        "several-events", "tasks", 850, 24, 5e-4, seed=5,
        train_vision=False, events=(2, 3), event_share=(0.12, 0.35), focused_share=0.1,
    ),
    Stage(
        "moments", "moments", 2000, 16, 5e-4, seed=6,
        train_vision=False, events=(2, 3), event_share=(0.12, 0.35), focused_share=0.1,
    ),
    Stage(
        "review", "tasks", 400, 24, 3e-4, seed=7,
        train_vision=False, events=(1, 3), event_share=(0.12, 0.35), focused_share=0.3,
    ),
)  # fmt: skip
ENCODER_STEPS = 1500


def make_checkpoints(
    out: Path,
    base_stages: Sequence[Stage] = BASE_STAGES,
    task_stages: Sequence[Stage] = TASK_STAGES,
    encoder_steps: int = ENCODER_STEPS,
    report: Callable[[str], None] = print,
) -> None:
    """Train the three checkpoints one after another. A killed run goes on where it was; what is finished stays.

    Raises:
        CheckpointError: training diverged.
    """
    if not _finished(out / "tiny-encoder"):
        report("tiny-encoder: text and frames")
        train_encoder(out / "tiny-encoder", steps=encoder_steps, report=report)
    base = out / "tiny-base"
    if not _finished(base):
        tokenizer = learn_tokenizer(PROMPTS)
        # Saved without the event tokens: the base model has never seen them.
        plain = copy.deepcopy(tokenizer)
        extend_tokenizer(tokenizer)
        model = new_model(tokenizer)
        _run(base_stages, model, tokenizer, out, report)
        _save(base, model, plain, base_stages)
    if not _finished(out / "tiny"):
        model = Qwen2VLForConditionalGeneration.from_pretrained(base, attn_implementation=IMPLEMENTATION)
        tokenizer = Qwen2Tokenizer.from_pretrained(base)
        add_event_tokens(model, tokenizer)
        _run(task_stages, model, tokenizer, out, report)
        _save(out / "tiny", model, tokenizer, [*base_stages, *task_stages])


def _run(
    stages: Sequence[Stage], model: Any, tokenizer: Qwen2Tokenizer, out: Path, report: Callable[[str], None]
) -> None:
    for stage in stages:
        report(f"{stage.name}: {stage.steps} steps of {stage.videos_a_step} videos")
        world = WorldSettings(stage.events, stage.event_share)
        train(
            model,
            PromptEncoder(tokenizer, PROMPTS),
            LessonSettings(SETTINGS.sampling, PATCHES, world, stage.focused_share),
            stage.lessons,
            out / stage.name,
            steps=stage.steps,
            batch_size=stage.videos_a_step,
            learning_rate=stage.learning_rate,
            decay_over=stage.decay_over,
            train_vision=stage.train_vision,
            seed=stage.seed,
            report=report,
        )


def _save(folder: Path, model: Any, tokenizer: Qwen2Tokenizer, stages: Sequence[Stage]) -> None:
    settings = SETTINGS.changed(training={"stages": [asdict(stage) for stage in stages]})
    save_checkpoint(folder, model, tokenizer, settings, PATCHES)


def _finished(folder: Path) -> bool:
    return (folder / "model.safetensors").is_file()


if __name__ == "__main__":
    torch.set_num_threads(1)
    make_checkpoints(Path(sys.argv[1] if len(sys.argv) > 1 else "out/tiny"))
