"""From rows to examples: what is taught equals what inference looks at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.data.made import clip_of, example
from tests.training.toy import maker_for
from videoreasoner.engines.local import LocalEngine
from videoreasoner.errors import RowError
from videoreasoner.models.checkpoint import Checkpoint
from videoreasoner.models.clip_features import ClipFeatures
from videoreasoner.models.tree_batch import TreeBatch
from videoreasoner.rows import Row
from videoreasoner.tasks import Task, parse_event
from videoreasoner.training.cold_start import target_batch
from videoreasoner.training.data.examples import longest_event
from videoreasoner.utils.stopwatch import Stopwatch
from videoreasoner.video.pyav.file import VideoFile
from videoreasoner.video.sampling import uniform_plan


def test_training_sees_what_inference_sees(checkpoint: Checkpoint, data: Path) -> None:
    """Same frames, same patches, same positions, same words: down to the features of the vision tower."""
    made = example(maker_for(checkpoint), data)
    patches, row = made.patches, made.row
    with VideoFile(row.video_path(data.parent)) as video_file:
        features = ClipFeatures(
            checkpoint.model, video_file, checkpoint.patches, checkpoint.tokens_per_second, Stopwatch()
        )  # fmt: skip
        clip = features.encode(uniform_plan(video_file.duration_s, checkpoint.settings.sampling))
        assert made.duration_s == video_file.duration_s
        session = LocalEngine(checkpoint).open(video_file)
        plan = uniform_plan(video_file.duration_s, checkpoint.settings.sampling)
        reply = session.complete(plan, row.question, row.options or (), [Task.ANSWER])
    assert clip_of(made) == clip.tokens
    with torch.inference_mode():
        seen = checkpoint.model.model.get_video_features(
            patches.pixel_values, torch.tensor([patches.grid]), return_dict=True
        ).pooler_output
    assert torch.equal(torch.cat(list(seen)), clip.features)
    # The prompt is the one that inference feeds, task prefix included.
    assert reply.tokens_in == len(made.prompt) + len(checkpoint.encoder.prefix(Task.ANSWER))


def test_a_prefix_is_taught_by_the_cold_start_and_given_in_grpo(checkpoint: Checkpoint, data: Path) -> None:
    """The same tokens in both; in GRPO those of the prefix belong to the prompt, and to no completion or length."""
    taught = example(maker_for(checkpoint), data)
    asked = example(replace(maker_for(checkpoint), max_target_length=None), data)
    assert taught.prompt.prefixes == asked.targets == {}
    assert taught.prompt.question == asked.prompt.question
    assert set(asked.prompt.prefixes) == set(taught.targets) == set(Task)
    completions = {}
    for task, prefix in asked.prompt.prefixes.items():
        assert prefix == checkpoint.encoder.prefix(task)
        assert taught.targets[task][: len(prefix)] == prefix
        completions[task] = [taught.targets[task][len(prefix) :]]
    pad_id = checkpoint.encoder.pad_id
    for shared_prompt in (True, False):
        cold_start = target_batch([taught], pad_id, shared_prompt)
        grpo = TreeBatch.from_prompts([asked.prompt], [completions], pad_id, shared_prompt)
        assert cold_start.lengths.tolist() == [len(target) for target in taught.targets.values()]
        assert cold_start.labels.tolist() == [token for target in taught.targets.values() for token in target]
        assert grpo.lengths.tolist() == [len(own) for [own] in completions.values()]
        assert grpo.labels.tolist() == [token for [own] in completions.values() for token in own]


def test_events_are_limited_to_the_video(checkpoint: Checkpoint, data: Path) -> None:
    made = example(maker_for(checkpoint), data, event=[3.0, 9.0])
    assert made.is_limited
    text = checkpoint.encoder.decode(made.targets[Task.EVENT])
    event = parse_event(text, 4.0)
    assert event is not None
    assert (event.start_s, event.end_s) == (3.0, 4.0)
    assert not example(maker_for(checkpoint), data, event=[1.0, 4.01]).is_limited
    with pytest.raises(RowError, match="no length inside the video"):
        example(maker_for(checkpoint), data, event=[5.0, 9.0])
    row = Row.model_validate({**made.row.model_dump(), "event": [[0, 1], [2, 3.5]]})
    longest = longest_event(row, 4.0)
    assert longest is not None
    assert longest.start_s == 2.0


def test_a_target_over_the_limit_is_refused(checkpoint: Checkpoint, data: Path) -> None:
    with pytest.raises(RowError, match=r"key_elements target has \d+ tokens, and max_target_length is 40"):
        example(maker_for(checkpoint, max_target_length=40), data, key_elements=["one thing after another"] * 40)
