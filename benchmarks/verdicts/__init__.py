"""Models with faults that a verdict can miss, in five groups of fixed sets, and what must be said of each."""
