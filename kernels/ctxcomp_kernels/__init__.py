"""Operations on compressed weights and caches: each has a reference in plain torch and a Triton kernel."""
