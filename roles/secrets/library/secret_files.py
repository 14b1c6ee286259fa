"""Ansible module: secrets as files, one each, made at random where they are missing.

A file holds the secret and nothing else, no line end, and is 0600. One that is there is kept, but
for another value that is given; then it stays as `.NAME.before-TIME`, for it may hold the only copy
of a passphrase. What a secret is never leaves this process: not in the result, not in a
diff, and it is in no argument unless it was given. A file of a given one holds what `contents` says
where that names it, which is the secret as Ansible vault encrypts it.
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: secret_files
short_description: Have secrets in files, made at random or given
options:
  directory: {type: path, required: true, description: An existing directory.}
  names: {type: list, elements: str, required: true, description: File names of the secrets.}
  values: {type: dict, default: {}, description: Given secrets, by the names of their files.}
  contents: {type: dict, default: {}, description: What their files are to hold, if not that.}
  olds: {type: dict, default: {}, description: The same of what is in the files.}
"""

#: 43 URL-safe base64 characters are 256 random bits; a field of the protocol takes 255.
RANDOM_BYTES = 32
LONGEST = 255
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*")


def put(path: Path, content: bytes) -> None:
    """Write `path` whole or not at all."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def keep(path: Path, old: str | None) -> str:
    """Have what `path` holds now under another name, too, as `old` if given; that name."""
    kept = f".{path.name}.before-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    path.chmod(0o600)
    if old is None:
        os.link(path.resolve(), path.parent / kept)
    else:
        put(path.parent / kept, old.encode())
    return kept


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "names": {"type": "list", "elements": "str", "required": True, "no_log": False},
            "values": {"type": "dict", "default": {}, "no_log": True},
            "contents": {"type": "dict", "default": {}, "no_log": True},
            "olds": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    directory = Path(module.params["directory"])
    given: dict[str, str] = module.params["values"]
    contents: dict[str, str] = module.params["contents"]
    olds: dict[str, str] = module.params["olds"]
    changed, replaced = [], {}
    for name in dict.fromkeys([*module.params["names"], *given]):
        value = given.get(name)
        if not NAME.fullmatch(name):
            module.fail_json(msg=f"{name!r} cannot be the name of a secret's file")
        if value is not None and not (value.isprintable() and 0 < len(value.encode()) <= LONGEST):
            module.fail_json(
                msg=f"the value given for {name} must be printable text of 1 to {LONGEST} bytes"
            )
        path = directory / name
        there = path.exists()
        content = contents.get(name, value)
        wrong_mode = there and path.stat().st_mode & 0o777 != 0o600
        if there and (value is None or path.read_bytes() == content.encode()):
            if wrong_mode:
                changed.append(name)
                if not module.check_mode:
                    path.chmod(0o600)
            continue
        changed.append(name)
        # One that stood there in clear, and is the same, is not kept so.
        if there and path.read_bytes() != value.encode():
            replaced[name] = "" if module.check_mode else keep(path, olds.get(name))
        if not module.check_mode:
            put(path, (content or secrets.token_urlsafe(RANDOM_BYTES)).encode())
    module.exit_json(changed=bool(changed), names=changed, replaced=replaced)


if __name__ == "__main__":
    main()
