"""What can be asked: a question with its options, in one of three modes. Importable without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Self, get_args

from videoreasoner.errors import QuestionError, SettingError
from videoreasoner.tasks import LETTERS, without_own_letters

Mode = Literal["focus", "direct", "think"]
"""focus: locate, look densely, answer. direct: one pass over evenly spread frames. think: one pass, reason in text."""
MODES: tuple[Mode, ...] = get_args(Mode)

LETTERS_NOTE = "the letters that the options bring along were left out"
MAX_QUESTION_CHARACTERS = 20_000


def check_mode(mode: str) -> Mode:
    """The mode, if there is one of that name.

    Raises:
        SettingError: the mode is unknown.
    """
    if mode not in MODES:
        raise SettingError(f"mode {mode!r} is unknown; use one of {', '.join(MODES)}")
    return mode


@dataclass(frozen=True)
class Query:
    """A question about a video, with its options if it has any.

    Attributes:
        options: without letters that they bring along; see `tasks.without_own_letters`.
        notes: how the query differs from what was given, in sentences.

    Raises:
        QuestionError: it cannot be asked.
    """

    text: str
    options: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=(), init=False, compare=False)

    @classmethod
    def of(cls, text: str, options: Sequence[str] = ()) -> Self:
        """A query with options in any sequence."""
        # One text is left as it is, because its letters are no options.
        return cls(text, options if isinstance(options, str) else tuple(options))  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        if isinstance(self.options, str):
            raise QuestionError(f"the options are one text, {self.options!r}; give a list of texts")
        if not self.text.strip():
            raise QuestionError("the question is empty")
        if len(self.text) > MAX_QUESTION_CHARACTERS:
            raise QuestionError(
                f"the question has {len(self.text):,} characters; at most {MAX_QUESTION_CHARACTERS:,} are taken"
            )
        if not self.options:
            return
        if not 2 <= len(self.options) <= len(LETTERS):
            raise QuestionError(
                f"{len(self.options)} option(s) given; give 2 to {len(LETTERS)}, or none for an open question"
            )
        seen: set[str] = set()
        for option in self.options:
            if not option.strip():
                raise QuestionError("an option is empty")
            if len(option) > MAX_QUESTION_CHARACTERS:
                raise QuestionError(
                    f"an option has {len(option):,} characters; at most {MAX_QUESTION_CHARACTERS:,} are taken"
                )
            plain = option.strip().casefold()
            if plain in seen:
                raise QuestionError(f"option {option!r} is given twice")
            seen.add(plain)
        plain_options = tuple(without_own_letters(self.options))
        if plain_options != self.options:
            # The way to set a field of a frozen dataclass.
            object.__setattr__(self, "options", plain_options)
            object.__setattr__(self, "notes", (LETTERS_NOTE,))
