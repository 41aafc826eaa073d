"""A claim a file: NAME.toml declares its runs, NAME.py says what their table decides (see the engine beside)."""
