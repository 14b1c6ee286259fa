"""The client with one typed method for each operation.

A method sends one request and returns what the reply holds. Each takes the secrets that give the
right to it: `password` is an administrator's, `passphrase` unlocks the user's access to a key.
All may raise what `Client.call` raises: `RequestRefused` with the server's status, `TransportError`
(which a later try may not meet), `ProtocolError`, `NSSError`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO

from ..errors import RequestRefused, SigulError, Status
from ..protocol.codec import MAX_FIELD_BYTES, Fields
from ..records import dataclass
from ..secret import Secret
from .core import RequestSender, checking_our_own

if TYPE_CHECKING:
    import datetime

    from ..formats.signed_note import LogProof
    from ..kojihub import HubRPM
    from .rpm_packages import Package, RPMOptions


@dataclass(frozen=True, slots=True)
class UserInfo:
    """A user, as `user_info` tells: whether it is an administrator."""

    admin: bool


@dataclass(frozen=True, slots=True)
class KeyUserInfo:
    """A user's access to a key: whether it may manage the key's users, and its limits.

    `only` are the operations that it is good for, `rpm_names` patterns of the names of the RPMs
    that it signs; None where that is not limited.
    """

    key_admin: bool
    only: tuple[str, ...] | None = None
    rpm_names: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A key's name and type (`gnupg`, `ECC` or `RSA`)."""

    name: str
    key_type: str

    def __str__(self) -> str:
        return f"{self.name} ({self.key_type})"

    @classmethod
    def parse(cls, text: str) -> KeyInfo:
        """The key that `NAME (TYPE)` tells of; servers before 1.1 know only gnupg, and no type."""
        name, parenthesis, rest = text.rpartition(" (")
        if parenthesis and rest.endswith(")"):
            return cls(name, rest[:-1])
        return cls(text, "gnupg")


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """A certificate of a key: its name, and what it is, in words."""

    name: str
    description: str

    def __str__(self) -> str:
        return f"{self.name} ({self.description})"

    @classmethod
    def parse(cls, text: str) -> CertificateInfo:
        """The certificate that `NAME (DESCRIPTION)` tells of."""
        name, _, rest = text.partition(" (")
        return cls(name, rest.removesuffix(")"))


def _listed(names: Sequence[str] | None) -> str | None:
    """Names in a field: between commas; none at all is no limit."""
    return None if names is None else ",".join(names)


def _given(**fields: str | bool | None) -> dict[str, str | bool]:
    """The fields that have a value, under their names on the wire."""
    return {name.replace("_", "-"): value for name, value in fields.items() if value is not None}


def _secrets(**secrets: Secret | None) -> dict[str, Secret]:
    return {name.replace("_", "-"): value for name, value in secrets.items() if value is not None}


def _date(date: datetime.date | None) -> str | None:
    return None if date is None else date.isoformat()


def _rights(passphrase: Secret | None, password: Secret | None) -> dict[str, Secret]:
    if (passphrase is None) == (password is None):
        raise ValueError("give the key's passphrase or an administrator's password, one of the two")
    return _secrets(passphrase=passphrase, password=password)


def _bindings(server: Sequence[str], client: Sequence[str]) -> dict[str, Secret]:
    """Binding layers as the inner fields that carry them."""
    if not server and not client:
        return {}
    from ..keystore.bindings import dump_layers, parse_layer

    layers = {"server-binding": server, "client-binding": client}
    fields = {
        name: Secret(dump_layers(map(parse_layer, texts)))
        for name, texts in layers.items()
        if texts
    }
    # That one is for the server's log alone, and what is bound here has no such limit.
    if len(fields.get("client-binding", Secret(b"")).reveal()) > MAX_FIELD_BYTES:
        del fields["client-binding"]
    return fields


class Client(RequestSender):
    """A client of one Sigul site; see `RequestSender` for its making and for `call`."""

    # ------------------------------------------------------------------------------- users

    def list_users(self, password: Secret) -> list[str]:
        """The names of all users, sorted."""
        return self.call("list-users", {}, _secrets(password=password)).names("num-users")

    def new_user(
        self,
        password: Secret,
        name: str,
        *,
        admin: bool = False,
        new_password: Secret | None = None,
    ) -> None:
        """Make the user `name`, with `new_password` if given; an administrator needs one."""
        self.call(
            "new-user",
            {"name": name, "admin": admin},
            _secrets(password=password, new_password=new_password),
        )

    def delete_user(self, password: Secret, name: str) -> None:
        """Delete the user `name`, who must not have access to any key."""
        self.call("delete-user", {"name": name}, _secrets(password=password))

    def user_info(self, password: Secret, name: str) -> UserInfo:
        """The user `name`: whether it is an administrator."""
        reply = self.call("user-info", {"name": name}, _secrets(password=password))
        return UserInfo(reply.fields.boolean("admin"))

    def modify_user(
        self,
        password: Secret,
        name: str,
        *,
        admin: bool | None = None,
        new_name: str | None = None,
        new_password: Secret | None = None,
    ) -> None:
        """Change of the user `name` what is given."""
        self.call(
            "modify-user",
            _given(name=name, admin=admin, new_name=new_name),
            _secrets(password=password, new_password=new_password),
        )

    def key_user_info(self, password: Secret, name: str, key: str) -> KeyUserInfo | None:
        """The access of the user `name` to `key`; None if there is none."""
        try:
            reply = self.call(
                "key-user-info", {"name": name, "key": key}, _secrets(password=password)
            )
        except RequestRefused as error:
            if error.status == Status.KEY_USER_NOT_FOUND:
                return None
            raise

        def limit(field: str) -> tuple[str, ...] | None:
            return tuple(reply.fields.string(field).split(",")) if field in reply.fields else None

        return KeyUserInfo(reply.fields.boolean("key-admin"), limit("only"), limit("rpm-names"))

    def modify_key_user(
        self,
        password: Secret,
        name: str,
        key: str,
        *,
        key_admin: bool | None = None,
        only: Sequence[str] | None = None,
        rpm_names: Sequence[str] | None = None,
    ) -> None:
        """Change of the access of the user `name` to `key` what is given.

        `only` and `rpm_names` are limits, as in `KeyUserInfo`; an empty one ends that limit.
        """
        fields = _given(
            name=name,
            key=key,
            key_admin=key_admin,
            only=_listed(only),
            rpm_names=_listed(rpm_names),
        )
        self.call("modify-key-user", fields, _secrets(password=password))

    # -------------------------------------------------------------------------------- keys

    def list_keys(self, password: Secret) -> list[KeyInfo]:
        """All keys, sorted by name."""
        reply = self.call("list-keys", {}, _secrets(password=password))
        names = reply.names("num-keys")
        if not self.version.lists_key_types:
            return [KeyInfo(name, "gnupg") for name in names]
        return [KeyInfo.parse(text) for text in names]

    def new_key(
        self,
        password: Secret,
        key: str,
        passphrase: Secret,
        *,
        key_admin: str | None = None,
        key_type: str | None = None,
        name_real: str | None = None,
        name_comment: str | None = None,
        name_email: str | None = None,
        expire_date: datetime.date | None = None,
    ) -> bytes:
        """Make a key; `passphrase` will unlock the access of its first user, `key_admin`.

        Returns the public key, armoured or PEM. Absent: this user as `key_admin`, a gnupg key,
        the key's name as `name_real`, a key that does not expire.
        """
        fields = _given(
            key=key,
            keytype=key_type,
            initial_key_admin=key_admin,
            name_real=name_real,
            name_comment=name_comment,
            name_email=name_email,
            expire_date=_date(expire_date),
        )
        return self.call(
            "new-key", fields, _secrets(password=password, passphrase=passphrase)
        ).payload

    def import_key(
        self,
        password: Secret,
        key: str,
        secret_key: bytes,
        passphrase: Secret,
        new_passphrase: Secret,
        *,
        key_admin: str | None = None,
        key_type: str | None = None,
    ) -> None:
        """Import a secret key of at most 1 MiB that `passphrase` unlocks.

        `new_passphrase` will unlock the access of its first user, `key_admin`.
        """
        with checking_our_own():
            self.version.operations["import-key"].check_payload(len(secret_key))
        self.call(
            "import-key",
            _given(key=key, keytype=key_type, initial_key_admin=key_admin),
            _secrets(password=password, passphrase=passphrase, new_passphrase=new_passphrase),
            payload=secret_key,
        )

    def delete_key(self, password: Secret, key: str) -> None:
        """Delete `key` with its certificates and all accesses to it."""
        self.call("delete-key", {"key": key}, _secrets(password=password))

    def modify_key(self, password: Secret, key: str, *, new_name: str | None = None) -> None:
        """Change of `key` what is given."""
        self.call("modify-key", _given(key=key, new_name=new_name), _secrets(password=password))

    # ------------------------------------------------------------------- keys and their users

    def list_key_users(
        self, key: str, *, passphrase: Secret | None = None, password: Secret | None = None
    ) -> list[str]:
        """The names of the users with access to `key`, sorted; needs one of the two secrets."""
        reply = self.call("list-key-users", {"key": key}, _rights(passphrase, password))
        return reply.names("num-users")

    def grant_key_access(
        self,
        key: str,
        name: str,
        passphrase: Secret,
        new_passphrase: Secret,
        *,
        server_binding: Sequence[str] = (),
        client_binding: Sequence[str] = (),
        only: Sequence[str] | None = None,
        rpm_names: Sequence[str] | None = None,
    ) -> None:
        """Give the user `name` access to `key`, unlocked by `new_passphrase`.

        `only` and `rpm_names` limit it, as in `KeyUserInfo`; absent, it is limited as one's own is.

        `server_binding` are the layers the server is to bind the access with, each as
        `method,key=value|…`; `client_binding` those that the client has bound the passphrase with.
        """
        self.call(
            "grant-key-access",
            _given(key=key, name=name, only=_listed(only), rpm_names=_listed(rpm_names)),
            _secrets(passphrase=passphrase, new_passphrase=new_passphrase)
            | _bindings(server_binding, client_binding),
        )

    def revoke_key_access(
        self,
        key: str,
        name: str,
        *,
        passphrase: Secret | None = None,
        password: Secret | None = None,
    ) -> None:
        """Take the user `name` the access to `key`; needs one of the two secrets."""
        self.call("revoke-key-access", {"key": key, "name": name}, _rights(passphrase, password))

    def get_public_key(
        self, key: str, *, passphrase: Secret | None = None, password: Secret | None = None
    ) -> bytes:
        """The public key, armoured or PEM; needs one of the two secrets."""
        return self.call("get-public-key", {"key": key}, _rights(passphrase, password)).payload

    def change_key_expiration(
        self,
        key: str,
        passphrase: Secret,
        *,
        expire_date: datetime.date | None = None,
        subkey: int | None = None,
    ) -> None:
        """Let `key`, or its subkey of that number, expire at `expire_date`, or never."""
        self.call(
            "change-key-expiration",
            _given(
                key=key,
                expire_date=_date(expire_date),
                subkey=None if subkey is None else str(subkey),
            ),
            _secrets(passphrase=passphrase),
        )

    def change_passphrase(
        self,
        key: str,
        passphrase: Secret,
        new_passphrase: Secret,
        *,
        server_binding: Sequence[str] = (),
        client_binding: Sequence[str] = (),
    ) -> None:
        """Let `new_passphrase` unlock this user's access to `key`; see `grant_key_access`."""
        self.call(
            "change-passphrase",
            {"key": key},
            _secrets(passphrase=passphrase, new_passphrase=new_passphrase)
            | _bindings(server_binding, client_binding),
        )

    def list_certificates(
        self, key: str, *, passphrase: Secret | None = None, password: Secret | None = None
    ) -> list[CertificateInfo]:
        """The certificates of `key`, sorted by name; needs one of the two secrets."""
        reply = self.call("list-certificates", {"key": key}, _rights(passphrase, password))
        return [CertificateInfo.parse(text) for text in reply.names("num-certificates")]

    def delete_certificate(
        self,
        key: str,
        name: str,
        *,
        passphrase: Secret | None = None,
        password: Secret | None = None,
    ) -> None:
        """Delete the certificate `name` of `key`; needs one of the two secrets."""
        fields = {"key": key, "cert-name": name}
        self.call("delete-certificate", fields, _rights(passphrase, password))

    # -------------------------------------------------------------------- signing, decrypting

    def sign_text(
        self,
        key: str,
        passphrase: Secret,
        text: BinaryIO | bytes,
        output: BinaryIO | None = None,
    ) -> bytes:
        """The text, clear-signed; written to `output` if given (see `sign_data`)."""
        return self._work("sign-text", {"key": key}, passphrase, text, output)

    def sign_data(
        self,
        key: str,
        passphrase: Secret,
        data: BinaryIO | bytes,
        output: BinaryIO | None = None,
        *,
        armor: bool = False,
    ) -> bytes:
        """A detached OpenPGP signature of `data`, a file from its position to its end.

        Written to `output` if given, and then nothing is returned. `output` is written to before
        the reply is known to be genuine: throw away what is there if this raises.
        """
        return self._work("sign-data", {"key": key, "armor": armor}, passphrase, data, output)

    def decrypt(
        self,
        key: str,
        passphrase: Secret,
        message: BinaryIO | bytes,
        output: BinaryIO | None = None,
    ) -> bytes:
        """The clear text of an OpenPGP message; written to `output` if given (see `sign_data`)."""
        return self._work("decrypt", {"key": key}, passphrase, message, output)

    def sign_rpm(
        self,
        key: str,
        passphrase: Secret,
        package: BinaryIO,
        output: BinaryIO | None,
        options: RPMOptions | None = None,
    ) -> None:
        """Write the RPM package `package`, a file read from its start, to `output`, signed.

        With head signing the package's headers are sent, and little more. Raises `SigulError` for
        an empty file; see `sign_data` for what `output` holds after an error. `output` is None
        where the options say that nothing comes back.
        """
        from . import rpm_packages

        options = options or rpm_packages.RPMOptions()
        fields, secrets = options.fields(key), options.secrets(passphrase)
        if options.head_signing:
            head = rpm_packages.read_package_head(package)
            named = options.fields_of(head, None)
            size = package.seek(0, os.SEEK_END)
            package.seek(0)
            sent = package.read(rpm_packages.sent_of(head, size))
            header = self.call("sign-rpm", {**fields, **named}, secrets, payload=sent).payload
            if options.returned and output is not None:
                rpm_packages.splice(package, head, header, output)
        else:
            rpm_packages.check_not_empty(package)
            self.call("sign-rpm", fields, secrets, payload=package, output=output)

    def sign_koji_rpm(
        self,
        key: str,
        passphrase: Secret,
        remote: HubRPM,
        output: BinaryIO | None,
        options: RPMOptions | None = None,
    ) -> None:
        """As `sign_rpm`, of an RPM that the bridge fetches from Koji.

        With head signing only where nothing comes back.
        """
        from . import rpm_packages

        options = options or rpm_packages.RPMOptions()
        options.check_remote()
        fields = {**options.fields(key), **options.fields_of(None, remote)}
        secrets = options.secrets(passphrase)
        self.call("sign-rpm", fields, secrets, output=output, payload_by_bridge=True)

    def sign_rpms(
        self,
        key: str,
        passphrase: Secret,
        packages: Sequence[Package],
        options: RPMOptions | None = None,
        *,
        done: Callable[[Package, SigulError | None], None],
        proved: Callable[[Package, LogProof], None] = lambda _package, _proof: None,
    ) -> None:
        """Sign many RPM packages in one request, each to its target.

        `done` is called for each package, in any order and from any thread, but never twice at
        once: with None once its target is there, else with the reason why it is not. Just before,
        `proved` is called with the proof that the server's log has it, where there is such a log.
        Raises `SigulError` where the request as a whole is refused or does not come about; then
        nothing is called. A `LogComplaint` it may also raise afterwards.
        """
        from ..protocol.messages import ChainKeys, new_chain_secrets
        from . import rpm_packages
        from .rpm_exchange import RPMExchange

        options = options or rpm_packages.RPMOptions()
        chain = new_chain_secrets(os.urandom)
        exchange = RPMExchange(
            packages,
            version=self.version,
            options=options,
            subrequests=ChainKeys.of_subrequests(Fields(chain)),
            subreplies=ChainKeys.of_subreplies(Fields(chain)),
            done=done,
            proved=proved,
        )
        secrets = options.secrets(passphrase) | {
            name: Secret(value) for name, value in chain.items()
        }
        self.call("sign-rpms", options.fields(key), secrets, converse=exchange.run)

    def _work(
        self,
        op: str,
        fields: Mapping[str, str | bool],
        passphrase: Secret,
        payload: BinaryIO | bytes,
        output: BinaryIO | None,
        file_name: str | None = None,
    ) -> bytes:
        secrets = _secrets(passphrase=passphrase)
        return self.call(
            op, fields, secrets, payload=payload, output=output, file_name=file_name
        ).payload

    def sign_git_tag(self, key: str, passphrase: Secret, tag: BinaryIO | bytes) -> bytes:
        """An armoured signature of an annotated tag object, which belongs at its end.

        `client.git_tag` reads and replaces a repository's tag.
        """
        return self._work("sign-git-tag", {"key": key}, passphrase, tag, None)

    def sign_container(
        self,
        key: str,
        passphrase: Secret,
        manifest: BinaryIO | bytes,
        reference: str,
        output: BinaryIO | None = None,
        *,
        file_name: str | None = None,
    ) -> bytes:
        """A signature of a container image's manifest, published as `reference`.

        An OpenPGP signed message; written to `output` if given (see `sign_data`). `file_name` is
        what the server's log is told of the manifest's name; None: that of the file that it is.
        """
        fields = {"key": key, "docker-reference": reference}
        return self._work("sign-container", fields, passphrase, manifest, output, file_name)

    def sign_ostree(
        self,
        key: str,
        passphrase: Secret,
        name: str,
        commit: BinaryIO | bytes,
        *,
        metadata: bytes = b"",
    ) -> bytes:
        """The detached metadata (`.commitmeta`) of an OSTree commit with its signature in them.

        `commit` is the commit object, whose SHA-256 is `name`. Whatever the detached metadata that
        the commit has had so far, `metadata`, hold is kept, signatures too; if they are none, or
        another commit's, nothing is sent, and `ProtocolError` raised.
        """
        from ..formats import commitmeta
        from ..formats.ostree_commit import MAX_COMMIT

        if metadata:
            content = commit if isinstance(commit, bytes) else commit.read(MAX_COMMIT + 1)
            commitmeta.check_signatures(metadata, content)
            if not isinstance(commit, bytes):
                commit.seek(0)
        reply = self._work(
            "sign-ostree", {"key": key, "ostree-hash": name}, passphrase, commit, None
        )
        if not metadata:
            return reply
        return commitmeta.with_signatures(metadata, commitmeta.signatures_in(reply))

    def sign_pe(
        self,
        key: str,
        passphrase: Secret,
        certificate_name: str,
        image: BinaryIO | bytes,
        output: BinaryIO | None = None,
    ) -> bytes:
        """A PE image with an Authenticode signature, by the key's certificate of that name.

        Written to `output` if given (see `sign_data`).
        """
        fields = {"key": key, "cert-name": certificate_name}
        return self._work("sign-pe", fields, passphrase, image, output)

    def sign_certificate(
        self,
        issuer_key: str,
        passphrase: Secret,
        subject_key: str,
        *,
        subject: str,
        validity: str,
        certificate_type: str,
        subject_certificate_name: str,
        issuer_certificate_name: str | None = None,
    ) -> bytes:
        """An X.509 certificate (PEM) for `subject_key`, which the server keeps under its name.

        `subject` is an RFC 4514 string (as `str` of a `DistinguishedName`), `validity` such as
        `10y`, `certificate_type` one of `ca`, `codesigning` and `sslserver`.
        `issuer_certificate_name` is the issuing one of `issuer_key`; absent, the certificate is
        self-signed.
        """
        fields = _given(
            issuer_key=issuer_key,
            subject_key=subject_key,
            subject=subject,
            validity=validity,
            certificate_type=certificate_type,
            subject_certificate_name=subject_certificate_name,
            issuer_certificate_name=issuer_certificate_name,
        )
        return self.call("sign-certificate", fields, _secrets(passphrase=passphrase)).payload

    # ---------------------------------------------------------------------------- bindings

    def list_server_binding_methods(self, password: Secret) -> list[str]:
        """The binding methods that are enabled on the server."""
        reply = self.call("list-binding-methods", {}, _secrets(password=password))
        return reply.names("num-methods")
