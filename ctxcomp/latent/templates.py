"""What the generator is told about the vectors while the projector learns to speak to it."""

from __future__ import annotations

PARAPHRASES = (
    "Background: {vectors} means the same as",
    "{vectors} Put the text above into words.",
    "Background: {vectors} Another way to say this is",
    "Say what {vectors} says.",
    "Here is a passage in short: {vectors} Write it out.",
    "Passage: {vectors} The same passage in plain words:",
    "{vectors} stands for a text. The text reads:",
    "What does {vectors} tell us?",
    "Write the text behind {vectors} again.",
    "Background: {vectors} In other words,",
    "Expand {vectors} into the passage it was made from.",
    "The passage {vectors} can be restated as",
    "Unfold this background: {vectors}",
)
"""Stage 1 asks for the passage in one of 13 ways, as xRAG does; but for the first, which it publishes, the words are
ours."""
REPEAT = "Repeat the text."
"""What memory slots are asked for while they learn to reconstruct."""
