"""Ansible module: the certificates of a site's components are as described.

Each is in an NSS database of its own, made, renewed and checked by `sigul-stack pki`; passwords
stay in their files, where that looks for them.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Final

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: pki_certificates
short_description: Have the certificates of a site's components
options:
  program: {type: path, required: true, description: The program sigul-stack.}
  authority: {type: path, required: true, description: Directory of the CA.}
  components: {type: list, elements: dict, required: true, description: What each is to have.}
  leaf_days: {type: int, required: true, description: Days that a new certificate is valid.}
  renew_days: {type: int, required: true, description: One with fewer days left is renewed.}
  renew_now: {type: bool, required: true, description: Whether all are renewed.}
  new_keys: {type: bool, required: true, description: Whether those get new private keys.}
  key_type: {type: str, required: true, description: Kind of a new private key, rsa or p256.}
  tune: {type: bool, required: true, description: Whether uses of private keys are made cheap.}
"""

#: Beside a database: the checksum of the file that its certificate was imported from.
STAMP: Final = "imported"


class Certificates:
    """The site's certificates, and what was changed."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.given: dict[str, Any] = module.params
        self.components: list[dict[str, Any]] = module.params["components"]
        self.years = ["--years", str(self.given["leaf_days"] / 365)]
        #: What was done, in words, and whose certificates were renewed.
        self.changes: list[str] = []
        self.renewed: list[str] = []

    def pki(self, *arguments: str, good: tuple[int, ...] = (0,)) -> str:
        """Run a command of `sigul-stack pki`; what it prints."""
        code, output, said = self.module.run_command([self.given["program"], "pki", *arguments])
        if code not in good:
            told = (output + said).strip() or f"exit code {code}"
            self.fail(f"sigul-stack pki {' '.join(arguments)}: {told}")
        return str(output)

    def change(self, what: str, *arguments: str) -> None:
        """Run a command that changes something, but for --check, and note it."""
        if not self.module.check_mode:
            self.pki(*arguments)
        self.changes.append(what)

    def fail(self, message: str) -> None:
        """End here, and tell what was changed until now."""
        self.module.fail_json(msg=message, changed=bool(self.changes), changes=self.changes)

    # --- One component -------------------------------------------------------------------------

    def have_password(self, component: dict[str, Any]) -> None:
        """Have its database's password beside it, where `sigul-stack pki` looks for it."""
        password, link = (
            Path(component["password_file"]),
            Path(component["database"], "nss-password"),
        )
        if link.is_symlink() and link.resolve() == password.resolve():
            return
        self.changes.append(f"{link} is a link to {password}")
        if not self.module.check_mode:
            new = link.with_name(".nss-password.new")
            new.unlink(missing_ok=True)
            new.symlink_to(os.path.relpath(password, link.parent))
            new.replace(link)

    def have_given(self, component: dict[str, Any]) -> None:
        """Have the certificate that comes from elsewhere: from another file than before, anew."""
        given, stamp = component["given"], Path(component["database"], STAMP)
        checksum = hashlib.sha256(Path(given["pkcs12"]).read_bytes()).hexdigest()
        if stamp.is_file() and stamp.read_text().strip() == checksum:
            return
        options = ["--nickname", _nickname(component), "--pkcs12", given["pkcs12"]]
        if given.get("password_file"):
            options += ["--pkcs12-password-file", given["password_file"]]
        if given.get("ca"):
            options += ["--ca", *given["ca"]]
        # What is wrong with it is said before it takes the place of the one there.
        names = component["names"] or [component["name"]]
        options += ["--role", component["role"], *(f"--name={name}" for name in names)]
        self.change(
            f"the certificate of {component['component']} was imported",
            *("import", "--into", component["database"], "--replace", *options),
        )
        if not self.module.check_mode:
            stamp.touch(0o600)
            stamp.write_text(f"{checksum}\n")

    def have_issued(self, component: dict[str, Any]) -> None:
        """Have a certificate of the site's CA, however long it is still valid."""
        if not _has_database(component):
            # The name that it has anyway is not given twice.
            names = [f"--san={name}" for name in component["names"][1:]]
            self.change(
                f"the certificate of {component['component']} was issued",
                *("issue", "--ca", self.given["authority"], "--into", component["database"]),
                *("--role", component["role"], "--name", component["name"], *self.years, *names),
                *("--key-type", self.given["key_type"]),
            )

    def renew(self, component: dict[str, Any], certificates: list[dict[str, Any]]) -> None:
        """Have a new certificate where the one there runs out or lacks a name."""
        own = [item for item in certificates if item["nickname"] == _nickname(component)]
        if not own:
            self.fail(f"{component['database']} has no certificate {_nickname(component)}")
        newest = max(own, key=lambda item: item["days_left"])
        missing = [name for name in component["names"] if name not in newest["names"]]
        runs_out = newest["days_left"] < self.given["renew_days"]
        if missing or runs_out or self.given["renew_now"]:
            self.renewed.append(component["component"])
            self.change(
                f"the certificate of {component['component']} was renewed",
                *("renew", "--ca", self.given["authority"], component["database"]),
                *("--nickname", _nickname(component), *self.years),
                *(f"--san={name}" for name in missing),
                *(
                    ["--new-key", "--key-type", self.given["key_type"]]
                    if self.given["new_keys"]
                    else []
                ),
            )

    def tune(self, component: dict[str, Any]) -> None:
        """Have a use of its private key cost little (`sigul-stack pki tune`)."""
        # With --check nothing is said: only the program knows which are slow, and it changes them.
        if not self.module.check_mode:
            (told,) = json.loads(self.pki("tune", "--json", component["database"]))
            if told["changed"]:
                self.changes.append(f"the database of {component['component']} was tuned")

    def check(self, component: dict[str, Any]) -> None:
        """Its own key, the CA's certificate, and nothing else; the right names and password."""
        names = component["names"] or [component["name"]]
        self.pki(
            *("check", component["database"], "--role", component["role"]),
            *("--warn-days", str(self.given["renew_days"])),
            *(f"--name={name}" for name in names),
        )

    # --- All of them ---------------------------------------------------------------------------

    def have_all(self) -> None:
        """Everything, in an order in which each step finds what it needs."""
        issued = [component for component in self.components if not component["given"]]
        for component in self.components:
            self.have_password(component)
        for component in self.components:
            if component["given"]:
                self.have_given(component)
        for component in issued:
            self.have_issued(component)
        # With --check those are missing that would be made.
        there = {item["database"]: item for item in issued if _has_database(item)}
        if there:
            # 1: one has expired, and is renewed.
            listed = json.loads(self.pki("list", "--json", *there, good=(0, 1)))
            for database in listed:
                self.renew(there[database["database"]], database["certificates"])
        for component in self.components:
            if _has_database(component):
                if self.given["tune"]:
                    self.tune(component)
                self.check(component)


def _has_database(component: dict[str, Any]) -> bool:
    return Path(component["database"], "cert9.db").is_file()


def _nickname(component: dict[str, Any]) -> str:
    return f"sigul-{component['role']}-cert"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "program": {"type": "path", "required": True},
            "authority": {"type": "path", "required": True},
            "components": {"type": "list", "elements": "dict", "required": True},
            "leaf_days": {"type": "int", "required": True},
            "renew_days": {"type": "int", "required": True},
            "renew_now": {"type": "bool", "required": True},
            "new_keys": {"type": "bool", "required": True, "no_log": False},
            "key_type": {"type": "str", "required": True, "no_log": False},
            "tune": {"type": "bool", "required": True},
        },
        supports_check_mode=True,
    )
    certificates = Certificates(module)
    certificates.have_all()
    module.exit_json(
        changed=bool(certificates.changes),
        changes=certificates.changes,
        renewed=certificates.renewed,
        diff={"before": "", "after": "".join(f"{line}\n" for line in certificates.changes)},
    )


if __name__ == "__main__":
    main()
