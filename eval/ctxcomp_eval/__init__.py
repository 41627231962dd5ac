"""Benchmarks, tasks and training scripts of ctxcomp."""
