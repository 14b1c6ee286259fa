"""The commands of `sigul`, one module a group of them.

A command is a row (name, help, arguments, secrets) and the function below it. Most are one function
that makes a request and prints the result. A command that opens files has a plan instead: it runs
before any secret is asked for, checks and opens what the arguments name, and returns the function
that makes the request.

* `command`: what rows are made of, and the decorators that make them.
* `arguments`: arguments and secrets that several commands have.
* `users`, `keys`, `access`, `signing`, `certificates`, `rpms`, `bindings`: the commands. All of a
  group are imported for one of it, so each function imports for itself what its command alone
  needs.
* `log_proofs`: proofs of the server's signing log, written and checked.
* `registry`: all commands, by name.
* `parsing`: a command's own command line. `execution`: running a command.
"""

from __future__ import annotations
