"""The reference solution of the capstone: my_codec.py, whose sections are the solutions of the stages."""
