"""The part of the action that runs on the runner. Python 3.9 with nothing but its standard library.

It reads the inputs, finds the files, has a container sign and verify, and writes down what that
gives. Secrets go from the environment to the container's standard input, and nowhere else.
"""
