"""Networks: frozen configs and pure functions; flax.linen stays inside."""
