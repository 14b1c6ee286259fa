"""The command that signs a git tag in its place."""

from __future__ import annotations

import logging
from pathlib import Path

from ...client.git import Tag, read_tag
from .execution import Invocation
from .model import Arguments

log = logging.getLogger(__name__)


def find_tag(arguments: Arguments) -> Tag:
    """The tag that `sign-git-tag` is to sign, in the repository that it is run in."""
    return read_tag(Path.cwd(), arguments.tag)


def sign_git_tag(call: Invocation) -> None:
    """`sigul sign-git-tag KEY TAG`: replaces the tag by its signed form."""
    tag: Tag = call.prepared
    signature = call.client.sign_git_tag(
        call.arguments.key, call.secrets["passphrase"], tag.content
    )
    new = tag.replace(signature)
    log.info(
        "Tag '%s' was %s%s, now is %s",
        call.arguments.tag,
        tag.object_id,
        " (signed already; that signature was replaced)" if tag.was_signed else "",
        new,
    )
