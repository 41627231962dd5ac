"""From a query and its context to the token ids of a prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ctxcomp.errors import InputError
from ctxcomp.types import Compressed, CompressedLatents, CompressedMixed, CompressedText, CompressedVision, Passage

Context = CompressedText | CompressedLatents | CompressedVision | CompressedMixed | str | Sequence[Passage]
Message = Mapping[str, str]
Prompt = tuple[list[int], list[int]]
"""Token ids, and the places among them where vectors stand: what the ids say there does not matter."""

BACKGROUND = "Refer to the background document: "
"""What stands before a context of vectors alone (xRAG, Cheng et al. 2024); in a mixed one they are a paragraph."""

FALLBACK_TEMPLATE = (
    "{% for m in messages %}{{ m['role'].capitalize() + ': ' + m['content'] + '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For models that have no chat template of their own."""

ROLES = ("system", "user", "assistant")


def context_text(context: Context, mark: str = "") -> str:
    """The context as the prompt shows it: passages stand apart by an empty line, under their titles.

    Parameters
    ----------
    mark: stands for each vector, or for each page; "" where none can be.

    Raises
    ------
    InputError: it is of a kind that this generator cannot read.
    """
    if isinstance(context, str):
        return context
    if isinstance(context, CompressedText):
        return context.text
    if mark and isinstance(context, CompressedLatents):
        return f"{BACKGROUND}{mark * len(context.vectors)}" if len(context.vectors) else ""
    if mark and isinstance(context, CompressedVision):
        return mark * len(context.tokens_in)
    if mark and isinstance(context, CompressedMixed):
        parts = (
            mark * len(part.vectors) if isinstance(part, CompressedLatents) else context_text(part, mark)
            for part in context.parts
        )
        return "\n\n".join(part for part in parts if part)
    if isinstance(context, Compressed):
        raise InputError(
            f"what is asked for here reads text, got a {type(context).__name__}: compress with a text method"
        )
    return "\n\n".join(
        passage.text if not passage.title else f"{passage.title}\n{passage.text}" for passage in _passages(context)
    )


def latent_parts(context: Context) -> list[CompressedLatents]:
    """The parts of a context that are vectors, in the order of the prompt."""
    return [part for part in _parts_of(context) if isinstance(part, CompressedLatents)]


def page_parts(context: Context) -> list[CompressedVision]:
    """The parts of a context that are pages, in the order of the prompt."""
    return [part for part in _parts_of(context) if isinstance(part, CompressedVision)]


def texts_of(context: Context) -> list[str]:
    """The texts within a context that are shown as they are."""
    return [part.text for part in _parts_of(context) if isinstance(part, CompressedText)]


def _parts_of(context: Context) -> Sequence[Any]:
    return context.parts if isinstance(context, CompressedMixed) else [context]


def mark_for(*texts: str) -> str:
    """A mark that none of the texts contains, nor makes where it touches them: characters of private use."""
    number = 0
    while any(f"\ue000{number}\ue001" in text for text in texts):
        number += 1
    return f"\ue000{number}\ue001"


def source_texts(context: Context) -> list[str]:
    """The documents behind a context before anything was removed from them: what an answer may quote."""
    if isinstance(context, CompressedText):
        return [passage.text for passage in context.passages]
    return []


def readable(text: str) -> str:
    """The text as tokenizers take it: a lone surrogate, which has no UTF-8, is U+FFFD, also one character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _passages(context: Any) -> list[Passage]:
    passages = list(context) if isinstance(context, Sequence) else [context]
    for passage in passages:
        if not isinstance(passage, Passage):
            raise InputError(
                f"context must be a CompressedText, a str or Passages, got {type(passage).__name__} (page images go "
                "through VisualPruner.compress first)"
            )
    return passages


def messages_for(query: str, context: Context = "", instruction: str = "", mark: str = "") -> list[dict[str, str]]:
    """The chat for one question: the instruction as the system's message, then context and question as the user's.

    ``mark`` stands for each vector or page of the context.
    """
    text = context_text(context, mark)
    asked = f"{text}\n\nQuestion: {query}" if text else query
    system = [{"role": "system", "content": instruction}] if instruction else []
    return [*system, {"role": "user", "content": asked}]


class Prompts:
    """Builds prompts for one tokenizer, or for a vision-language model's processor.

    Text that looks like one of the tokenizer's special tokens is broken up by a space after its first character:
    no passage can end its own message and begin another.
    """

    def __init__(self, tokenizer: Any, processor: Any = None) -> None:
        self._tokenizer, self._processor = tokenizer, processor
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        names = sorted((name for name in special if len(name) > 1), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, names))) if names else None
        self.encode("")  # the first call may set the tokenizer up, which two threads must not do at once

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a chat, up to where the answer begins.

        Raises
        ------
        InputError: there is no message, one is malformed, or the model's template refuses them.
        """
        return self.encode(self.render(messages))

    def prompt(self, query: str, context: Context = "", instruction: str = "") -> Prompt:
        """The prompt for one question, with the places of the context's vectors.

        Raises
        ------
        InputError: the context is of a kind that cannot be read, or the model's template refuses the chat.
        """
        if not isinstance(context, (CompressedLatents, CompressedMixed)):
            return self.tokens(messages_for(query, context, instruction)), []
        mark = mark_for(query, instruction, *texts_of(context))
        return self.marked(self.render(messages_for(query, context, instruction, mark)), mark)

    def marked(self, text: str, mark: str) -> Prompt:
        """Token ids of a rendered prompt in which each mark becomes the place of one vector.

        Text between marks is cut into tokens by itself, as it is around a special token.
        """
        ids: list[int] = []
        places: list[int] = []
        for i, piece in enumerate(text.split(mark)):
            if i:
                places.append(len(ids))
                ids.append(0)
            ids += self.encode(piece) if piece else []
        return ids, places

    def with_pages(self, query: str, context: Context, instruction: str = "") -> str:
        """The rendered prompt for one question, with the processor's own placeholder for each page of the context.

        Raises
        ------
        InputError: as for ``prompt``.
        """
        mark = mark_for(query, instruction, *texts_of(context))
        return self.render(messages_for(query, context, instruction, mark), mark)

    def render(self, messages: Sequence[Message], page: str | None = None) -> str:
        """The chat as text under the model's template; where that knows no system message, the user's gets it.

        Parameters
        ----------
        page: what stands for a page in the messages.
        """
        from jinja2 import TemplateError

        clean = [self._clean(message) for message in messages]
        if not clean:
            raise InputError("a chat needs at least one message")
        try:
            return self._apply(clean, page)
        except TemplateError as error:
            if clean[0]["role"] == "system" and len(clean) > 1 and clean[1]["role"] == "user":
                joined = {"role": "user", "content": f"{clean[0]['content']}\n\n{clean[1]['content']}"}
                return self.render([joined, *clean[2:]], page)
            raise InputError(f"the model's chat template refuses these messages: {error}") from error

    def text_tokens(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return self.encode(self._defused(text))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text in which special tokens are meant."""
        found: list[int] = self._tokenizer(readable(text), add_special_tokens=False, verbose=False)["input_ids"]
        return found

    def _apply(self, messages: list[dict[str, str]], page: str | None) -> str:
        own = None if self._processor is None else self._processor.chat_template or self._tokenizer.chat_template
        if own:
            # Templates of vision-language models pass over content that is no list of parts, and say nothing.
            parted = [{**message, "content": _content(message["content"], page)} for message in messages]
            text: str = self._tokenizer.apply_chat_template(
                parted, chat_template=own, add_generation_prompt=True, tokenize=False
            )
            return text
        if page is not None:
            messages = [{**m, "content": m["content"].replace(page, self._processor.image_token)} for m in messages]
        template = None if self._tokenizer.chat_template else FALLBACK_TEMPLATE
        rendered: str = self._tokenizer.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=True, tokenize=False
        )
        return rendered if template is None else (self._tokenizer.bos_token or "") + rendered

    def _clean(self, message: Message) -> dict[str, str]:
        role, content = message.get("role"), message.get("content")
        if role not in ROLES or not isinstance(content, str):
            raise InputError(f"a message has a role of {', '.join(ROLES)} and content as text, got role {role!r:.40}")
        return {"role": role, "content": self._defused(content)}

    def _defused(self, text: str) -> str:
        return text if self._special is None else self._special.sub(lambda m: f"{m[0][0]} {m[0][1:]}", text)


def _content(text: str, page: str | None) -> list[dict[str, str]]:
    """A message as parts: its text, and an image wherever a page's mark stands."""
    pieces = [text] if page is None else text.split(page)
    texts = [[{"type": "text", "text": piece}] if piece else [] for piece in pieces]
    image: dict[str, str] = {"type": "image"}
    return [part for i, piece in enumerate(texts) for part in ([image] if i else []) + piece]
