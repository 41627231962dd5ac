"""A small language model trained on the text at hand, so that figures of a compressed generator mean something."""
