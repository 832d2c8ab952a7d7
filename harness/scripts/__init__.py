"""Programs that are copied out to users. Each runs by itself, on Python 3.8, and imports nothing of harness."""
