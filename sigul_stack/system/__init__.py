"""The operating system as the rest of the package sees it: processes, programs and files."""
