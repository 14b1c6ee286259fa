"""Checks of a site: `sigul-stack health`, `doctor` and `diagnose`, for people, images and Ansible.

`examination` has the one list of checks of each component; `steps` walks it. A result is data
(`checks.Check`): what was looked at, what was found and what to do. Nothing in here changes a site,
disturbs a request or prints.
"""

from __future__ import annotations
