"""The text around a question. It is saved with every checkpoint, so that inference asks as training did.

A task prefix and the completion behind it are one text. Qwen's vocabulary has a token for " red" and another for "red",
so the space between the two must be on the same side everywhere. It begins the completion: "The answer is:" + " red"
has the tokens of "The answer is: red". A prefix that kept its space would end in a token that stands for a space alone,
and the completion would begin with a token that the model rarely saw behind one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from videoreasoner.errors import QuestionError, SettingError
from videoreasoner.tasks import EVENT_START, LETTERS, THINK_START, Task

DEFAULT_INSTRUCTION = (
    "Depending on how the reply begins, either locate the key event of the question as shares of the whole video, "
    "such as [0.12, 0.47], or list the key elements that have to be seen to answer, separated by commas, or answer "
    "directly."
)


_SPACES = " \t"
_LINE_ENDS = ("\n", "\r")


class Prompts(BaseModel):
    """Prompt text of a checkpoint. Every field is plain text without special tokens.

    The layout is ChatML, the format of all Qwen-VL families: the video comes before the question,
    so that questions about one video share the longest possible prompt.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str = "You are a helpful assistant that understands videos."
    instruction: str = DEFAULT_INSTRUCTION
    options_header: str = "Options:"
    prefixes: dict[Task, str] = Field(
        default_factory=lambda: {
            Task.EVENT: "I want to locate the key event in the video.",
            Task.KEY_ELEMENTS: "I want to output the key elements:",
            Task.ANSWER: "The answer is:",
            Task.THINK: THINK_START,
        }
    )
    prefix_keeps_space: bool = False
    """Whether spaces at the end of a prefix are tokenised with the prefix, and completions begin without one. The
    checkpoints from before this field existed expect it; see `Settings.load`."""
    answer_style: Literal["letter", "words"] = "letter"
    """What the model writes when there are options: the letter or the words of the option."""

    @field_validator("prefixes")
    @classmethod
    def _every_task_has_a_prefix(cls, given: dict[Task, str]) -> dict[Task, str]:
        # Older checkpoints do not name this task.
        prefixes = {Task.THINK: THINK_START} | given
        missing = [task.value for task in Task if task not in prefixes]
        if missing:
            raise ValueError(f"no prefix for {', '.join(missing)}; give one for every task")
        return {task: prefixes[task] for task in Task}

    @classmethod
    def preset(cls, name: str) -> Prompts:
        """The prompts of a name: `default`, or `published`.

        `published` has the system text and the prefixes of the published training script, as far as they are known: its
        instruction is not, so ours stands in its place. See docs/deviations.md.

        Raises:
            SettingError: there is no preset of that name.
        """
        if name not in _PRESETS:
            raise SettingError(f"prompts: there is no preset {name!r}; give one of {', '.join(_PRESETS)}, or the texts")
        return cls(**_PRESETS[name])

    def user_text(self, question: str, options: Sequence[str] = ()) -> str:
        """The text of the user's turn, after the video.

        Raises:
            QuestionError: there are more options than letters.
        """
        _check_options(options)
        lines = [question.strip()]
        if options:
            listed = [f"{LETTERS[i]}. {option}" for i, option in enumerate(options)]
            lines += [self.options_header, *listed] if self.options_header else listed
        if self.instruction:
            lines.append(self.instruction)
        return "\n".join(lines)

    def prefix(self, task: Task) -> str:
        """The text of a task prefix that is given to a model; spaces at its end begin the completion instead."""
        text = self.prefixes[task]
        return text if self.prefix_keeps_space else text.rstrip(_SPACES)

    def completion(self, task: Task, text: str) -> str:
        """The text behind `prefix(task)`, with the space between the two.

        There is none behind a line break and none in front of an event token, where a space would be a token of its
        own.
        """
        if self.prefix_keeps_space:
            return text if self.prefixes[task].endswith((" ", "\n")) else f" {text}"
        text, given = text.strip(), self.prefix(task)
        if not text or (task is Task.EVENT and text.startswith(EVENT_START)):
            return text
        spaces = self.prefixes[task][len(given) :]
        return (spaces or ("" if not given or given.endswith(_LINE_ENDS) else " ")) + text

    def option_texts(self, options: Sequence[str]) -> list[str]:
        """What the model would write for each option.

        Raises:
            QuestionError: there are more options than letters.
        """
        _check_options(options)
        if self.answer_style == "letter":
            return list(LETTERS[: len(options)])
        return list(options)


_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "published": {
        "system": "You are a very smart multimodal assistant that can understand videos.",
        "prefixes": {
            Task.EVENT: "I want to locate the key event in the video. ",
            Task.KEY_ELEMENTS: "I want to output the key elements: ",
            Task.ANSWER: "The answer is: ",
        },
    },
}


def _check_options(options: Sequence[str]) -> None:
    if len(options) > len(LETTERS):
        raise QuestionError(f"{len(options)} options are too many; a question takes at most {len(LETTERS)}")
