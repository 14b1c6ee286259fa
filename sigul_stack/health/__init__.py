"""Checks of a site: what `sigul-stack health`, `doctor` and `diagnose`, images and Ansible ask.

A check is data (`report.Check`): what was looked at, what was found and what to do. Nothing
in here changes a site, disturbs a request or prints.
"""

from __future__ import annotations
