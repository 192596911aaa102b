"""Folders that training wrote, loaded by stock vLLM: the same frames and words give the same tokens and probabilities.

`make test-vllm` runs this in an environment of its own. The reference is our own engine, which knows nothing of vLLM.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from numpy.typing import NDArray

from tests.models.tiny_models import tokenizer
from tests.training.toy import FAMILIES, PATCHES, SETTINGS, make_data, recipe_content
from videoreasoner.engines.engine import Reply
from videoreasoner.engines.local import LocalEngine
from videoreasoner.models.checkpoint import load_checkpoint, save_checkpoint
from videoreasoner.models.positions import ClipTokens
from videoreasoner.rows import Row, read_rows
from videoreasoner.spans import Span
from videoreasoner.tasks import Task
from videoreasoner.training.cold_start import train_cold_start
from videoreasoner.training.recipe import ColdStartRecipe, load_recipe, parse_recipe
from videoreasoner.video.patches import resized_size
from videoreasoner.video.pyav.file import VideoFile
from videoreasoner.video.sampling import PAIR, FramePlan, focus_plan, uniform_plan

vllm = pytest.importorskip("vllm", reason="make test-vllm runs this, in an environment of its own")

# Loading an engine takes a minute or two on a CPU.
pytestmark = pytest.mark.timeout(1200)

TINY = Path(__file__).parents[2] / "recipes" / "cold_start" / "tiny.yaml"
TASKS = (Task.EVENT, Task.ANSWER)
# vLLM's kernels for CPUs have no narrower ones.
HEAD_WIDTH = 32


def train(kind: str, folder: Path) -> Path:
    """Two steps of the recipe that ships, or of a random model; returns the output folder."""
    data = make_data(folder / "data")
    if kind == "tiny":
        changes = {
            "output_dir": folder / "out",
            "data": f"[{{path: {data}}}]",
            "eval_data": "[]",
            "video_root": data.parent,
            "frame_cache_dir": folder / "frames",
            "max_steps": 2,
            "per_device_train_batch_size": 2,
            "dataloader_num_workers": 0,
        }
        return train_cold_start(
            load_recipe(TINY, ColdStartRecipe, [f"{key}={value}" for key, value in changes.items()])
        )
    save_checkpoint(folder / "model", FAMILIES[kind](head_width=HEAD_WIDTH), tokenizer(), SETTINGS, PATCHES)
    return train_cold_start(parse_recipe(recipe_content(folder, data, max_steps=2), ColdStartRecipe))


@dataclass(frozen=True, eq=False)
class Pass:
    """One question about the frames of one plan, as each engine is asked it."""

    row: Row
    frames: NDArray[np.uint8]
    prompt_ids: list[int]
    reply: Reply

    @property
    def options(self) -> tuple[str, ...]:
        return tuple(self.row.options or ())


@dataclass(frozen=True, eq=False)
class Engines:
    """Ours and vLLM, with the same folder."""

    ours: LocalEngine
    theirs: Any
    data: Path

    @property
    def needs_times(self) -> bool:
        """Qwen2.5-VL counts seconds; vLLM takes one interval for a whole clip."""
        return self.ours.checkpoint.tokens_per_second is not None

    def passes(self) -> list[Pass]:
        """What our engine says to every row: over even frames and, where times are not counted, over uneven ones."""
        sampling = self.ours.settings.sampling
        found = []
        for row in read_rows(self.data):
            with VideoFile(self.data.parent / row.video) as video_file:
                plans = [uniform_plan(video_file.duration_s, sampling)]
                if not self.needs_times:
                    plans.append(focus_plan(video_file.duration_s, [Span(0.4, 1.1)], sampling))
                    assert plans[1].dense.any()
                found += [self._pass(row, video_file, plan) for plan in plans]
        return found

    def _pass(self, row: Row, video_file: VideoFile, plan: FramePlan) -> Pass:
        checkpoint, options = self.ours.checkpoint, row.options or ()
        reply = self.ours.open(video_file).complete(plan, row.question, options, TASKS)
        frames = np.stack([image for _, image in video_file.iter_frames_at(plan.times_s)])
        height, width = (
            side // checkpoint.patches.factor for side in resized_size(*frames.shape[1:3], checkpoint.patches)
        )
        clip = ClipTokens(height, width, tuple(range(len(plan))))
        trunk = checkpoint.encoder.trunk([clip]).input_ids.tolist()
        return Pass(row, frames, [*trunk, *checkpoint.encoder.question(row.question, options)], reply)

    def request(self, asked: Pass, behind: str) -> dict[str, Any]:
        """The same for vLLM, as text and pixels; `behind` is what the reply begins with."""
        prompts = self.ours.settings.prompts
        text = (
            f"<|im_start|>system\n{prompts.system}<|im_end|>\n"
            f"<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>"
            f"{prompts.user_text(asked.row.question, asked.options)}<|im_end|>\n"
            f"<|im_start|>assistant\n{behind}"
        )
        if not self.needs_times:
            return {"prompt": text, "multi_modal_data": {"video": asked.frames}}
        times = asked.reply.frame_times_s
        fps = PAIR / (times[PAIR] - times[0])
        facts = {"fps": fps, "total_num_frames": len(times), "frames_indices": list(range(len(times)))}
        return {
            "prompt": text,
            "multi_modal_data": {"video": (asked.frames, facts)},
            "mm_processor_kwargs": {"fps": fps, "do_sample_frames": False},
        }


@pytest.fixture(scope="module", params=["tiny", *FAMILIES])
def engines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    work = tmp_path_factory.mktemp("vllm")
    folder = train(request.param, work)
    theirs = vllm.LLM(
        str(folder),
        dtype="float32",
        enforce_eager=True,
        max_model_len=2048,
        max_num_seqs=8,
        limit_mm_per_prompt={"image": 0, "video": 1},
    )
    ours = LocalEngine(load_checkpoint(folder, "cpu"), constrain_event=False)
    yield Engines(ours, theirs, work / "data" / "plain.jsonl")
    theirs.llm_engine.engine_core.shutdown()


def test_the_same_tokens_are_written(engines: Engines) -> None:
    checkpoint = engines.ours.checkpoint
    encoder = checkpoint.encoder
    words = len(checkpoint.model.get_output_embeddings().weight)
    sampling = vllm.SamplingParams(
        temperature=0.0,
        max_tokens=engines.ours.settings.max_new_tokens,
        allowed_token_ids=sorted(set(range(words)) - set(checkpoint.banned_ids)),
    )
    asked = [(each, task) for each in engines.passes() for task in TASKS]
    prompts = engines.ours.settings.prompts
    outputs = engines.theirs.generate([engines.request(each, prompts.prefix(task)) for each, task in asked], sampling)
    for (each, task), output in zip(asked, outputs, strict=True):
        # As many visual tokens: frames were resized to the same size. The same words, tokenised as one string.
        assert output.prompt_token_ids == [*each.prompt_ids, *encoder.prefix(task)]
        ours, theirs = each.reply.completions[task], output.outputs[0]
        written = [token for token in theirs.token_ids if token not in checkpoint.end_ids]
        assert encoder.decode(written) == ours.text
        assert (len(theirs.token_ids), theirs.finish_reason == "stop") == (ours.tokens, ours.finished)
    # Otherwise any picture would do.
    assert len({each.reply.completions[Task.EVENT].text for each, _ in asked}) > 1


def test_options_are_as_probable(engines: Engines) -> None:
    encoder, prompts = engines.ours.checkpoint.encoder, engines.ours.settings.prompts
    asked = [each for each in engines.passes() if each.options]
    assert asked
    sampling = vllm.SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    end = "<|im_end|>" if prompts.answer_style == "words" else ""
    for each in asked:
        texts = [prompts.completion(Task.ANSWER, text) + end for text in prompts.option_texts(each.options)]
        prefix = prompts.prefix(Task.ANSWER)
        outputs = engines.theirs.generate([engines.request(each, prefix + text) for text in texts], sampling)
        given = len(each.prompt_ids) + len(encoder.prefix(Task.ANSWER))
        for output, expected in zip(outputs, each.reply.option_log_probs, strict=True):
            ids = output.prompt_token_ids[given:]
            scores = [at[token].logprob for token, at in zip(ids, output.prompt_logprobs[given:], strict=True)]
            assert sum(scores) == pytest.approx(expected, abs=1e-3)


def test_stock_transformers_takes_the_processor_of_the_family(engines: Engines) -> None:
    """vLLM names the class itself; `AutoProcessor` has to find it."""
    folder = engines.ours.name
    processor = transformers.AutoProcessor.from_pretrained(folder)
    family = json.loads((Path(folder) / "config.json").read_text())["model_type"]
    expected = {"qwen2_vl": transformers.Qwen2VLProcessor, "qwen2_5_vl": transformers.Qwen2_5_VLProcessor}[family]
    assert type(processor) is expected
    patches = engines.ours.checkpoint.patches
    size = processor.video_processor.size
    assert (size.shortest_edge, size.longest_edge) == (patches.min_pixels, patches.max_pixels)
