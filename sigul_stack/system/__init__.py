"""The ground floor: what the operating system gives, for everything above."""
