"""What compressed weights and caches of the generator cost, measured on the small trained model."""
