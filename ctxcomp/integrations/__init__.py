"""The ways in for other frameworks; each module needs that framework, and `import ctxcomp` none of them."""
