"""One file a step; the file's docstring says what it changes and who can still open the result."""
