"""Training and measuring latent contexts: the projector, memory slots and the ladder."""
