"""The checks of the capstone's stages, with their oracles in NumPy and SciPy.

The checks run in the process of the learner's file, which cannot import labkit, so they import only each other. Each
module has a function `check(codec, work)`. It raises `Wrong` with a message for the learner, or returns a `Result`.
"""
