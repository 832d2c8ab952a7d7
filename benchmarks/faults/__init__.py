"""Planted faults: models whose culprits are known by construction, and how well a diagnosis finds them."""
