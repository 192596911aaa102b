"""The tokenizer of a folder, whose files are checked before transformers reads them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from videoreasoner.errors import CheckpointError
from videoreasoner.models.folder.configuration import read_checkpoint_json
from videoreasoner.utils.files import read_small
from videoreasoner.utils.validation import explain

_MOST_BYTES = 2**28
_MOST_TOKENS = 10_000
_LOADING_ERRORS = (ImportError, LookupError, OSError, RuntimeError, ValueError)
_EVERY_KIND = "a \u00e9 \u4e00 \U0001f600"


class _Token(BaseModel):
    # An unknown key would be an argument that tokenizers does not have.
    model_config = ConfigDict(strict=True, extra="forbid")

    content: str
    id: int | None = None
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    single_word: bool = False
    special: bool = False
    mark: str | None = Field(None, alias="__type")


_AnyToken = str | _Token | None
_Tokens = Annotated[list[str | _Token], Field(max_length=_MOST_TOKENS)]


class _TokenizerConfig(BaseModel):
    """What transformers takes from tokenizer_config.json and special_tokens_map.json."""

    model_config = ConfigDict(strict=True, extra="allow")

    tokenizer_class: str | None = None
    bos_token: _AnyToken = None
    eos_token: _AnyToken = None
    unk_token: _AnyToken = None
    sep_token: _AnyToken = None
    pad_token: _AnyToken = None
    cls_token: _AnyToken = None
    mask_token: _AnyToken = None
    additional_special_tokens: _Tokens | None = None
    extra_special_tokens: _Tokens | dict[str, str | _Token] | None = None
    model_specific_special_tokens: dict[str, str | _Token] | None = None
    added_tokens_decoder: dict[Annotated[str, Field(pattern=r"^\d{1,8}$")], _Token] = {}
    model_max_length: Annotated[int, Field(ge=1)] | Annotated[float, Field(ge=1)] | None = None
    padding_side: Annotated[str, Field(pattern="^(left|right)$")] = "right"
    truncation_side: Annotated[str, Field(pattern="^(left|right)$")] = "right"
    clean_up_tokenization_spaces: bool | None = None
    split_special_tokens: bool | None = None
    add_prefix_space: bool | None = None
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    errors: Annotated[str, Field(pattern="^(strict|ignore|replace)$")] = "replace"
    chat_template: str | dict[str, str] | list[dict[str, str]] | None = None
    model_input_names: list[str] = []
    # Never followed, but transformers looks into it.
    auto_map: dict[str, Any] | list[Any] | None = None
    init_inputs: Annotated[list[Any], Field(max_length=0)] = []


def load_tokenizer(folder: Path, config: Any) -> Any:
    """The tokenizer of a folder, as transformers loads it.

    Args:
        config: transformers' configuration of the model.

    Raises:
        CheckpointError: a file of it is missing, damaged, or holds values of another type than it should.
    """
    from transformers import AutoTokenizer

    _check_files(folder)
    try:
        # Python code in the folder is refused without asking on the terminal.
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False)
        tokenizer(_EVERY_KIND)
    except Exception as error:
        # tokenizers has no error class of its own: what it cannot use is an `Exception` and no subclass.
        if type(error) is not Exception and not isinstance(error, _LOADING_ERRORS):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise CheckpointError(
            f"{folder}: its tokenizer cannot be loaded ({reason}); copy tokenizer.json and tokenizer_config.json again"
        ) from error
    # Without its files, transformers makes a tokenizer that knows special tokens only.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise CheckpointError(f"{folder}: the tokenizer knows no words; add its tokenizer.json")
    return tokenizer


def _check_files(folder: Path) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        if path.exists():
            content = read_checkpoint_json(path, 2**24)
            try:
                _TokenizerConfig.model_validate(content)
            except ValidationError as error:
                raise _damaged(path, explain(error)[:300]) from error
    for name in ("added_tokens.json", "vocab.json"):
        path = folder / name
        if path.exists() and not all(type(value) is int and 0 <= value < 2**24 for value in _json(path).values()):
            raise _damaged(path, "it must map tokens to their ids")
    path = folder / "tokenizer.json"
    if path.exists():
        _check_tokenizer(path)


def _json(path: Path) -> dict[str, Any]:
    return read_checkpoint_json(path, _MOST_BYTES)


def _check_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer

    content = _json(path)
    for token in content.get("added_tokens") or []:
        try:
            _Token.model_validate(token)
        except ValidationError as error:
            raise _damaged(path, f"added_tokens: {explain(error)[:300]}") from error
    try:
        tokenizer = Tokenizer.from_str(read_small(path, _MOST_BYTES))
        # transformers copies it in this way, and a copy may be refused that the text was not.
        copy.deepcopy(tokenizer)
    # tokenizers has no error class of its own: whatever it cannot read is an `Exception`.
    except Exception as error:
        raise _damaged(path, " ".join(str(error).split())[:300]) from error


def _damaged(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{path}: cannot be loaded ({problem}); copy the file again from the model")
