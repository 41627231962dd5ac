"""Context in chat messages: find it, compress it, put it back, and leave everything else to the character.

What marks context in a user's message, in this order; the first rule that finds something decides:

1. ``"ctxcomp": "context"`` on a message or content part: all of it. ``"ctxcomp": "keep"``: none of it. The key is taken
   out of what `apply` returns.
2. XML-like tags: ``<context>``, ``<documents>``, ``<document index="1">``, ``<search_results>``, ``<retrieved_…>``, …
3. Labels at the beginning of a line, "Context:", "## Documents", "BEGIN CONTEXT", up to "Question:" or the like.
4. Two lines of ``---``, ``===``, ``\"\"\"`` or backticks below a sentence that points at a context.
5. Passages numbered "[1] …", "Document 2: …", from 0 or 1 on, beside a question.
6. JSON arrays of objects that have a text (``text``, ``content``, ``page_content``, ``snippet``, …) and say where it is
   from, beside a question.
7. What stands between a paragraph such as "Use the following pieces of context …" and the question.
8. At least 200 words of prose beside one short question in a paragraph of its own.

In a tool's message: tags; the texts in its JSON, which stays valid JSON; else all of it if it is prose.

The query is what stands at "Question:" or in ``<question>``, else the last user message without its context, else an
earlier user message. Without any, nothing is compressed unless the caller says what the context or the query is.

Not taken for context: code, logs and markup; system and assistant messages (unless ``roles`` names them or they carry
the mark); finished examples of question and answer; a person's own long story; a text that is to be translated,
corrected or summarised; JSON without texts; anything shorter than ``min_characters``. What is not recognised is left
as it is: a missed context costs tokens, a wrongly cut text costs the answer.
"""

from ctxcomp.messages.apply import apply, count_messages
from ctxcomp.messages.compress import compress_messages, plan, tighter
from ctxcomp.messages.locate import locate
from ctxcomp.messages.types import CompressedMessages, Located, Place, Slot

__all__ = [
    "CompressedMessages",
    "Located",
    "Place",
    "Slot",
    "apply",
    "compress_messages",
    "count_messages",
    "locate",
    "plan",
    "tighter",
]
