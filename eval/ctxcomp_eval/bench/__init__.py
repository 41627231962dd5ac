"""Speed and quality benchmarks that choose between libraries or implementations."""
