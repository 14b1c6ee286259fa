"""What decides whether a change may land: which tests there are, which ran, and how they ended.

`.ci/run` starts `python3 -m tests.gate` in a fresh clone. The modules need nothing but Python's
standard library, and pytest where they are its plugins (`lanes`, `record`).
"""
