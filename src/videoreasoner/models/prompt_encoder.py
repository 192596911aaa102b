"""Words -> token ids: ChatML around a clip and a question, in the pieces that a prompt tree needs.

Special tokens are placed by id, and text is tokenised with special tokens switched off, so that no
text from a user or a data file can ever become one: `<|video_pad|>` in a question is words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from videoreasoner.errors import CheckpointError
from videoreasoner.models.positions import ClipTokens
from videoreasoner.models.prompt_tree import Trunk
from videoreasoner.prompts import Prompts
from videoreasoner.tasks import EVENT_END, EVENT_START, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END, VIDEO_PAD = "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"
# Not placed by us, but a text must not become one of them either.
_OTHER_SPECIAL = ("<|image_pad|>", "<|vision_pad|>", "<|endoftext|>")


class PromptEncoder:
    """Tokenises the pieces of a prompt for one checkpoint.

    Raises:
        CheckpointError: the tokenizer lacks a special token that the layout needs, or takes one for ordinary text, so
            that a question could hold it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompts: Prompts) -> None:
        self.tokenizer = tokenizer
        self.prompts = prompts
        known = tokenizer.get_vocab()
        needed = [TURN_START, TURN_END, VISION_START, VISION_END, VIDEO_PAD, EVENT_START, EVENT_END]
        missing = [token for token in needed if token not in known]
        if missing:
            raise CheckpointError(
                f"the tokenizer has no {', '.join(missing)}; this is not a Qwen-VL tokenizer with the event tokens"
            )
        self.ids = {token: known[token] for token in needed}
        special = [token for token in (*needed, *_OTHER_SPECIAL) if token in known]
        ordinary = [token for token in special if known[token] in self.text(token)]
        if ordinary:
            raise CheckpointError(
                f"the tokenizer does not mark {', '.join(ordinary)} as special, so a text could hold such a token; "
                'give it "special": true in tokenizer.json and tokenizer_config.json'
            )

    @property
    def end_id(self) -> int:
        """The token that ends a turn."""
        return self.ids[TURN_END]

    @property
    def pad_id(self) -> int:
        """The token that fills up the rows of a batch."""
        return int(self.tokenizer.pad_token_id)

    @property
    def video_token_id(self) -> int:
        return self.ids[VIDEO_PAD]

    def text(self, text: str) -> tuple[int, ...]:
        """Token ids of plain text; whatever it spells, none of them is a special token."""
        # JSON may hold halves of surrogate pairs, which have no UTF-8 and which tokenizers refuse.
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        encoded = self.tokenizer(whole, add_special_tokens=False, split_special_tokens=True)
        return tuple(encoded["input_ids"])

    def target(self, text: str) -> tuple[int, ...]:
        """Token ids of a training target, where the two event tokens are themselves."""
        ids: list[int] = []
        rest = text
        while rest:
            found = [(rest.find(token), token) for token in (EVENT_START, EVENT_END) if token in rest]
            if not found:
                return (*ids, *self.text(rest))
            at, token = min(found)
            if at:
                ids += self.text(rest[:at])
            ids.append(self.ids[token])
            rest = rest[at + len(token) :]
        return tuple(ids)

    def trunk(self, clips: Sequence[ClipTokens]) -> Trunk:
        """System turn and the start of the user's turn, up to the end of the last clip."""
        ids = self.ids
        head = (
            ids[TURN_START],
            *self.text(f"system\n{self.prompts.system}"),
            ids[TURN_END],
            *self.text("\n"),
            ids[TURN_START],
            *self.text("user\n"),
        )
        parts: list[tuple[int, ...] | ClipTokens] = []
        for clip in clips:
            parts += [(*head, ids[VISION_START]), clip]
            head = (ids[VISION_END],)
        return Trunk((*parts, head), self.video_token_id)

    def question(self, question: str, options: Sequence[str] = ()) -> tuple[int, ...]:
        """The rest of the user's turn and the header of the reply."""
        return (
            *self.text(self.prompts.user_text(question, options)),
            self.ids[TURN_END],
            *self.text("\n"),
            self.ids[TURN_START],
            *self.text("assistant\n"),
        )

    def prefix(self, task: Task) -> tuple[int, ...]:
        """What a completion of the task continues. The ids of prefix and completion are those of the joined text."""
        return self.text(self.prompts.prefix(task))

    def completion(self, task: Task, text: str) -> tuple[int, ...]:
        """What the model is to write behind a task prefix, without the end token.

        Only an event holds event tokens: the text of other tasks comes from data and options.
        """
        written = self.prompts.completion(task, text)
        return self.target(written) if task is Task.EVENT else self.text(written)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a completion; the event tokens stay visible, the end token goes."""
        text = self.tokenizer.decode([i for i in ids if i != self.end_id], skip_special_tokens=False)
        return str(text).strip()
