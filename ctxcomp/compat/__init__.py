"""Drop-in replacements for other compressors: the same calls, the same results, ours underneath."""
