"""Errors that the action ends with."""

from __future__ import annotations


class ActionError(Exception):
    """The action cannot go on; the text is what failed, and what to do about it."""


class Rejected(ActionError):
    """Inputs, bundle or configuration are not what they have to be: `validation_status` says so."""
