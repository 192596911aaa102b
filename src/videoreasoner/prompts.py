"""The text around a question. It is saved with every checkpoint, so that inference asks as training did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from videoreasoner.errors import QuestionError
from videoreasoner.tasks import LETTERS, THINK_START, Task

DEFAULT_INSTRUCTION = (
    "Depending on how the reply begins, either locate the key event of the question as shares of the whole video, "
    "such as [0.12, 0.47], or list the key elements that have to be seen to answer, separated by commas, or answer "
    "directly."
)


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
            Task.EVENT: "I want to locate the key event in the video. ",
            Task.KEY_ELEMENTS: "I want to output the key elements: ",
            Task.ANSWER: "The answer is: ",
            Task.THINK: THINK_START,
        }
    )
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

    def completion(self, task: Task, text: str) -> str:
        """The text after a task prefix; exactly one of the two has the space between them."""
        return text if self.prefixes[task].endswith((" ", "\n")) else f" {text}"

    def option_texts(self, options: Sequence[str]) -> list[str]:
        """What the model would write for each option.

        Raises:
            QuestionError: there are more options than letters.
        """
        _check_options(options)
        if self.answer_style == "letter":
            return list(LETTERS[: len(options)])
        return list(options)


def _check_options(options: Sequence[str]) -> None:
    if len(options) > len(LETTERS):
        raise QuestionError(f"{len(options)} options are too many; a question takes at most {len(LETTERS)}")
