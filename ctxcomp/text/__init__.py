"""Text methods, one file each: a method writes `score` and nothing else."""
