"""Ansible module: users, keys and accesses of a Sigul site are as described, through its client.

Each question and each change is one `sigul --batch` in the client's container. Secrets go to its
standard input, each ended by NUL; they are in no argument list, environment or result. A secret
that the server has already cannot be compared, so it is set when a thing is made, and never after.
"""

from __future__ import annotations

import re
from typing import Any, Final

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: sigul_accounts
short_description: Have users, keys and accesses of a Sigul site
options:
  container: {type: str, required: true, description: Container of the client.}
  user: {type: str, required: true, description: The administrator that the client is of.}
  password: {type: str, required: true, description: Name of that user's password in secrets.}
  secrets: {type: dict, required: true, description: All passwords and passphrases by their names.}
  users: {type: list, elements: dict, required: true, description: As accounts_users.}
  keys: {type: list, elements: dict, required: true, description: As accounts_keys.}
  delete_keys: {type: bool, default: false, description: Whether keys may be deleted.}
"""

PROGRAM: Final = ("sigul", "--batch", "-c", "/etc/sigul/client.conf")
#: What a command may take, in seconds; making a large RSA key is the slowest.
COMMAND_SECONDS: Final = "300"


class Failed(Exception):
    """A command failed; the text is what it said."""


class Site:
    """The site as its client sees it, and what was changed there."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.secrets: dict[str, str] = module.params["secrets"]
        self.password: str = module.params["password"]
        self.administrator: str = module.params["user"]
        self.changes: list[str] = []

    def ask(self, *arguments: str, secrets: tuple[str, ...] = ()) -> str:
        """Run a command with the named secrets; what it prints."""
        for name in secrets:
            if name not in self.secrets:
                raise Failed(f"sigul {arguments[0]}: there is no secret {name}")
        text = "".join(self.secrets[name] + "\0" for name in secrets)
        code, output, said = self.module.run_command(
            ["docker", "exec", "-i", self.module.params["container"],
             "timeout", COMMAND_SECONDS, *PROGRAM, *arguments],
            data=text.encode(), binary_data=True,
        )  # fmt: skip
        if code != 0:
            raise Failed(f"sigul {' '.join(arguments)}: {said.strip() or f'exit code {code}'}")
        return str(output)

    def change(self, what: str, *arguments: str, secrets: tuple[str, ...] = ()) -> None:
        """Run a command that changes something, but for --check, and note it."""
        if not self.module.check_mode:
            self.ask(*arguments, secrets=secrets)
        self.changes.append(what)

    # --- What is there -------------------------------------------------------------------------

    def user_names(self) -> set[str]:
        """The names of all users."""
        return set(self.ask("list-users", secrets=(self.password,)).splitlines())

    def key_types(self) -> dict[str, str]:
        """The types of all keys, by their names."""
        lines = self.ask("list-keys", secrets=(self.password,)).splitlines()
        found = (re.fullmatch(r"(.*) \((\w+)\)", line) for line in lines)
        return {match[1]: match[2] for match in found if match}

    def is_admin(self, user: str) -> bool:
        """Whether an existing user is an administrator."""
        return "yes" in self.ask("user-info", user, secrets=(self.password,))

    def access(self, user: str, key: str) -> bool | None:
        """Whether a user administers a key; None where it has no access."""
        told = self.ask("key-user-info", user, key, secrets=(self.password,))
        return None if "No access" in told else told.strip().endswith("yes")

    # --- Having it as described ----------------------------------------------------------------

    def have_user(self, user: dict[str, Any], there: set[str]) -> None:
        """A user that is to be there."""
        name, admin = user["name"], user["admin"]
        if name not in there:
            secret = user["password"]
            options = [*(["--admin"] if admin else []), *(["--with-password"] if secret else [])]
            if admin and not secret:
                raise Failed(f"user {name} is to be an administrator: give it a password")
            self.change(
                f"user {name} was made", "new-user", *options, "--", name,
                secrets=(self.password, *([secret] if secret else [])),
            )  # fmt: skip
        elif self.is_admin(name) != admin:
            self.change(
                f"user {name} is {'now' if admin else 'no longer'} an administrator",
                "modify-user", "--admin", "yes" if admin else "no", "--", name,
                secrets=(self.password,),
            )  # fmt: skip

    def have_key(self, key: dict[str, Any], types: dict[str, str]) -> None:
        """A key that is to be there."""
        name = key["name"]
        if name in types:
            if types[name] != key["type"]:
                raise Failed(
                    f"key {name} is of type {types[name]}, not {key['type']}; give the new one"
                    " another name"
                )
            return
        options = ["--key-admin", key["admin"], "--key-type", key["type"]]
        for option, value in (
            ("--gnupg-name-real", key["real_name"]),
            ("--gnupg-name-comment", key["comment"]),
            ("--gnupg-name-email", key["email"]),
            ("--gnupg-expire-date", key["expires"]),
        ):
            options += [option, value] if value else []
        self.change(
            f"key {name} was made", "new-key", *options, "--", name,
            secrets=(self.password, key["passphrase"]),
        )  # fmt: skip

    def have_access(self, key: dict[str, Any], user: dict[str, Any], is_new: bool) -> None:
        """An access that is to be there. `is_new`: --check did not make its key or user."""
        name, who, wanted = key["name"], user["name"], user["key_admin"]
        found = None if is_new else self.access(who, name)
        if found is None:
            if key["admin"] != self.administrator:
                raise Failed(
                    f"access to key {name} is given by {key['admin']}, whose certificate this"
                    f" client does not have: it is {self.administrator}'s"
                )
            self.change(
                f"user {who} has access to key {name}", "grant-key-access", "--", name, who,
                secrets=(key["passphrase"], user["passphrase"]),
            )  # fmt: skip
            found = False
        if found != wanted:
            self.change(
                f"user {who} {'now' if wanted else 'no longer'} administers key {name}",
                "modify-key-user", "--key-admin", "yes" if wanted else "no", "--", who, name,
                secrets=(self.password,),
            )  # fmt: skip

    def have_no_access(self, key: str, user: str) -> None:
        """An access that is not to be there; user and key are."""
        if self.access(user, key) is not None:
            self.change(
                f"user {user} has no access to key {key} any more",
                "revoke-key-access", "--password", "--", key, user, secrets=(self.password,),
            )  # fmt: skip

    def have_no_user(self, name: str, keys: set[str]) -> None:
        """A user who is there and is not to be; the accesses go first."""
        for key in sorted(keys):
            self.have_no_access(key, name)
        self.change(f"user {name} was deleted", "delete-user", "--", name, secrets=(self.password,))


def _present(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for item in items if item["state"] == "present"]


def _absent(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for item in items if item["state"] == "absent"]


def bring_about(site: Site, users: list[dict[str, Any]], keys: list[dict[str, Any]]) -> None:
    """Everything in an order in which each step finds what it needs. Raises `Failed`."""
    user_names, key_types = site.user_names(), site.key_types()
    for user in _present(users):
        site.have_user(user, user_names)
    for key in _present(keys):
        site.have_key(key, key_types)
        for user in _present(key["users"]):
            is_new = key["name"] not in key_types or user["name"] not in user_names
            site.have_access(key, user, is_new and site.module.check_mode)
        for user in _absent(key["users"]):
            if key["name"] in key_types and user["name"] in user_names:
                site.have_no_access(key["name"], user["name"])
    for key in _absent(keys):
        if key["name"] in key_types:
            if not site.module.params["delete_keys"]:
                raise Failed(f"key {key['name']} is not deleted: accounts_delete_keys is not set")
            site.change(
                f"key {key['name']} was deleted", "delete-key", "--", key["name"],
                secrets=(site.password,),
            )  # fmt: skip
            del key_types[key["name"]]
    for user in _absent(users):
        if user["name"] in user_names:
            site.have_no_user(user["name"], set(key_types))


def main() -> None:
    """Run the module."""
    state = {"type": "str", "choices": ["present", "absent"], "default": "present"}
    optional = {"type": "str", "default": ""}
    # Names of secrets, not secrets.
    named = {"type": "str", "default": "", "no_log": False}
    access = {
        "name": {"type": "str", "required": True},
        "passphrase": named,
        "key_admin": {"type": "bool", "default": False, "no_log": False},
        "state": state,
    }
    module = AnsibleModule(
        argument_spec={
            "container": {"type": "str", "required": True},
            "user": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": False},
            "secrets": {"type": "dict", "required": True, "no_log": True},
            "users": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "admin": {"type": "bool", "default": False},
                    "password": named,
                    "state": state,
                },
            },
            "keys": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "no_log": False,
                "options": {
                    "name": {"type": "str", "required": True},
                    "type": {"type": "str", "choices": ["gnupg", "ECC", "RSA"], "default": "gnupg"},
                    "admin": {"type": "str", "required": True},
                    "passphrase": named,
                    "real_name": optional,
                    "comment": optional,
                    "email": optional,
                    "expires": optional,
                    "users": {
                        "type": "list",
                        "elements": "dict",
                        "default": [],
                        "options": access,
                    },
                    "state": state,
                },
            },
            "delete_keys": {"type": "bool", "default": False, "no_log": False},
        },
        supports_check_mode=True,
    )
    site = Site(module)
    try:
        bring_about(site, module.params["users"], module.params["keys"])
    except Failed as error:
        module.fail_json(msg=str(error), changed=bool(site.changes), changes=site.changes)
    module.exit_json(
        changed=bool(site.changes),
        changes=site.changes,
        diff={"before": "", "after": "".join(f"{line}\n" for line in site.changes)},
    )


if __name__ == "__main__":
    main()
