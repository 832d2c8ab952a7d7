"""How well the emulator predicts engines: a fixed set of models, a sweep of products, and what engines made of them."""
