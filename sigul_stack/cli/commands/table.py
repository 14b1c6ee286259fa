"""The table of commands: one row a command, in the order in which `--help-commands` lists them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...protocol.operations import CERTIFICATE_TYPES
from .model import (
    Arguments,
    Ask,
    Command,
    Operand,
    Option,
    certificate_name,
    date,
    option,
    subkey_number,
    years,
)

if TYPE_CHECKING:
    from ...config.client import ClientSettings

# ---------------------------------------------------------------------------------- operands

_USER = Operand("user", "the user's name")
_KEY = Operand("key", "the key's name")

# ----------------------------------------------------------------------------------- secrets

_ADMIN = Ask("password", "Administrator's password")
_PASSPHRASE = Ask("passphrase", "Key passphrase", from_file=True)


def _with_password(arguments: Arguments) -> bool:
    return bool(arguments.password)


#: Either gives the right to what a key's users and administrators may do.
_PASSPHRASE_OR_PASSWORD = (
    Ask(
        "passphrase",
        "Key passphrase",
        from_file=True,
        when=lambda arguments: not arguments.password,
    ),
    Ask("password", "User password", when=_with_password),
)

# ----------------------------------------------------------------------------------- options

_PASSWORD = option(
    "--password",
    action="store_true",
    help="authenticate with an administrator's password instead of the key's passphrase",
)
_YES_NO = ("yes", "no")
_KEY_ADMIN = option(
    "--key-admin", metavar="USER", help="the key's first administrator (default: yourself)"
)
_KEY_TYPE = option(
    "--key-type", choices=("gnupg", "ECC", "RSA"), help="the key's type (default: gnupg)"
)
_OUTPUT = option(
    "-o", "--output", metavar="FILE", type=Path, help="write to FILE (default: standard output)"
)
_REPLACING_OUTPUT = option(
    "-o",
    "--output",
    metavar="FILE",
    type=Path,
    help="write the signed RPM to FILE (default: replace the RPM; one of Koji's goes to standard"
    " output)",
)
_BINDINGS = (
    option(
        "-b",
        "--server-binding-method",
        metavar="B",
        action="append",
        default=[],
        help="bind the access on the server: METHOD[,KEY=VALUE...][|METHOD...]; repeat for a"
        " further layer",
    ),
    option(
        "-c",
        "--client-binding-method",
        metavar="B",
        action="append",
        default=[],
        help="bind the passphrase in the file of -w, which is then needed, in the same form; repeat"
        " for a further layer",
    ),
    option(
        "-w",
        "--write-passphrase-file",
        metavar="FILE",
        type=Path,
        help="make a random passphrase and write it, bound by -c or as the configuration says, to"
        " the new FILE",
    ),
)


def _signs_files(arguments: Arguments) -> bool:
    return arguments.file_signing_key is not None


#: What signing RPMs asks for, one or many.
_RPM_SECRETS = (
    _PASSPHRASE,
    Ask(
        "file_signing_key_passphrase",
        "File signing key passphrase",
        file_argument="file_signing_key_passphrase_file",
        when=_signs_files,
    ),
)
_RPM_OPTIONS = (
    option(
        "--file-signing-key", metavar="K", help="sign the packages' files, too, with ECC or RSA key"
    ),
    option(
        "--file-signing-key-passphrase-file",
        metavar="F",
        type=Path,
        help="file with the bound passphrase of that key, instead of asking for it",
    ),
    option(
        "--store-in-koji", action="store_true", help="have the bridge store the signature in Koji"
    ),
    option(
        "--koji-only",
        action="store_true",
        help="do not return the signed RPM, only store its signature in Koji",
    ),
    option(
        "-k", "--koji-instance", metavar="I", help="use another Koji instance, of koji-instances"
    ),
    option(
        "--v3-signature",
        action="store_true",
        help="sign header and payload together as well, as RPM 3 did",
    ),
    option(
        "--head-signing",
        action="store_true",
        help="send only the packages' headers, and put the signatures in here",
    ),
)


def _is_in_koji(arguments: Arguments) -> bool:
    return not Path(arguments.rpm).exists()


def _rpm_misuse(arguments: Arguments) -> str | None:
    if arguments.file_signing_key_passphrase_file is not None and not _signs_files(arguments):
        return "--file-signing-key-passphrase-file needs --file-signing-key"
    if arguments.koji_only and not arguments.store_in_koji:
        return "--koji-only needs --store-in-koji"
    return None


def _rpms_misuse(arguments: Arguments) -> str | None:
    if arguments.output is None and not arguments.koji_only:
        return "-o/--output DIR is needed, for the signed RPMs"
    return _rpm_misuse(arguments)


def _has_output_directory(arguments: Arguments) -> bool:
    return arguments.output_dir is not None


def _data_misuse(arguments: Arguments) -> str | None:
    if _has_output_directory(arguments):
        return "give -o/--output or --output-dir" if arguments.output is not None else None
    if len(arguments.file) > 1:
        return "--output-dir DIR is needed, for the signatures of many files"
    return None


def _binary(_arguments: Arguments) -> bool:
    return True


def _asks_for_new_passphrase(arguments: Arguments) -> bool:
    return arguments.write_passphrase_file is None


def _binding_misuse(arguments: Arguments) -> str | None:
    if arguments.client_binding_method and arguments.write_passphrase_file is None:
        return (
            "Client-side binding requires a passphrase file: give"
            " -w/--write-passphrase-file FILE with -c/--client-binding-method"
        )
    return None


def _configured_binding_misuse(arguments: Arguments, settings: ClientSettings) -> str | None:
    if arguments.write_passphrase_file is None or arguments.client_binding_method:
        return None
    if settings.binding.forced or settings.binding.default:
        return None
    return (
        "-w/--write-passphrase-file needs -c/--client-binding-method, where the configuration has"
        " neither forced-binding-methods nor default-binding-methods"
    )


def _text(_arguments: Arguments) -> bool:
    return False


def _new_key_options() -> tuple[Option, ...]:
    return (
        _KEY_ADMIN,
        _KEY_TYPE,
        option("--gnupg-name-real", metavar="NAME", help="real name in a gnupg key's user ID"),
        option("--gnupg-name-comment", metavar="TEXT", help="comment in a gnupg key's user ID"),
        option("--gnupg-name-email", metavar="EMAIL", help="address in a gnupg key's user ID"),
        option(
            "--gnupg-expire-date",
            metavar="YYYY-MM-DD",
            type=date,
            help="date at which a gnupg key expires (default: never)",
        ),
    )


_SUBJECT_PARTS = {
    "common-name": "NAME",
    "organizational-unit": "UNIT",
    "organization": "NAME",
    "locality": "PLACE",
    "state": "STATE",
    "country-name": "XX",
}


def _certificate_options() -> tuple[Option, ...]:
    return (
        option(
            "--issuer-certificate-name",
            metavar="NAME",
            type=certificate_name,
            help="which of the issuer key's certificates issues (default: a self-signed one is"
            " made)",
        ),
        option(
            "--subject-certificate-name",
            metavar="NAME",
            type=certificate_name,
            required=True,
            help="the name under which the server keeps the certificate with the subject key",
        ),
        option(
            "--validity",
            metavar="Ny",
            type=years,
            required=True,
            help="how long the certificate is valid: a number of years, such as 10y",
        ),
        option(
            "--certificate-type",
            choices=CERTIFICATE_TYPES,
            required=True,
            help="what the certificate is for",
        ),
        option(
            "-s", "--subject", metavar="NAME", help="the subject, as in CN=Name,O=Organization,C=XX"
        ),
        *(
            option(f"--subject-{part}", metavar=metavar, help=f"the subject's {part}")
            for part, metavar in _SUBJECT_PARTS.items()
        ),
    )


def _subject_misuse(arguments: Arguments) -> str | None:
    parts = any(
        getattr(arguments, f"subject_{part.replace('-', '_')}") is not None
        for part in _SUBJECT_PARTS
    )
    if (arguments.subject is None) != parts:
        return "give the subject, either with -s/--subject or with --subject-... options"
    return None


# ------------------------------------------------------------------------------------- table

COMMANDS: tuple[Command, ...] = (
    Command("list-users", "List users", "users:list_users", secrets=(_ADMIN,)),
    Command(
        "new-user",
        "Add a user",
        "users:new_user",
        operands=(_USER,),
        options=(
            option("--admin", action="store_true", help="make the user an administrator"),
            option("--with-password", action="store_true", help="give the user a password"),
        ),
        secrets=(
            _ADMIN,
            Ask(
                "new_password",
                "New user's password",
                new=True,
                when=lambda arguments: arguments.admin or arguments.with_password,
            ),
        ),
    ),
    Command(
        "delete-user", "Delete a user", "users:delete_user", operands=(_USER,), secrets=(_ADMIN,)
    ),
    Command(
        "user-info",
        "Show information about a user",
        "users:user_info",
        operands=(_USER,),
        secrets=(_ADMIN,),
    ),
    Command(
        "modify-user",
        "Modify a user",
        "users:modify_user",
        operands=(_USER,),
        options=(
            option("--admin", choices=_YES_NO, help="whether the user is an administrator"),
            option("--new-name", metavar="NAME", help="rename the user"),
            option("--change-password", action="store_true", help="set a new password"),
        ),
        secrets=(
            _ADMIN,
            Ask(
                "new_password",
                "User's new password",
                new=True,
                when=lambda arguments: bool(arguments.change_password),
            ),
        ),
    ),
    Command(
        "key-user-info",
        "Show information about a user's access to a key",
        "users:key_user_info",
        operands=(_USER, _KEY),
        secrets=(_ADMIN,),
    ),
    Command(
        "modify-key-user",
        "Modify a user's access to a key",
        "users:modify_key_user",
        operands=(_USER, _KEY),
        options=(
            option("--key-admin", choices=_YES_NO, help="whether the user administers the key"),
        ),
        secrets=(_ADMIN,),
    ),
    Command("list-keys", "List keys", "keys:list_keys", secrets=(_ADMIN,)),
    Command(
        "new-key",
        "Make a key and print its public part",
        "keys:new_key",
        operands=(_KEY,),
        options=_new_key_options(),
        secrets=(_ADMIN, Ask("passphrase", "New key passphrase", new=True)),
    ),
    Command(
        "import-key",
        "Import a key",
        "keys:import_key",
        operands=(_KEY, Operand("file", "file with the secret key", reads=True)),
        options=(_KEY_ADMIN, _KEY_TYPE),
        secrets=(
            _ADMIN,
            Ask("passphrase", "Passphrase of the key in the file"),
            Ask("new_passphrase", "New key passphrase", new=True),
        ),
    ),
    Command("delete-key", "Delete a key", "keys:delete_key", operands=(_KEY,), secrets=(_ADMIN,)),
    Command(
        "modify-key",
        "Modify a key",
        "keys:modify_key",
        operands=(_KEY,),
        options=(option("--new-name", metavar="NAME", help="rename the key"),),
        secrets=(_ADMIN,),
    ),
    Command(
        "list-key-users",
        "List users that can access a key",
        "access:list_key_users",
        operands=(_KEY,),
        options=(_PASSWORD,),
        secrets=_PASSPHRASE_OR_PASSWORD,
    ),
    Command(
        "grant-key-access",
        "Grant a user access to a key",
        "access:grant_key_access",
        operands=(_KEY, _USER),
        options=_BINDINGS,
        secrets=(
            _PASSPHRASE,
            Ask(
                "new_passphrase",
                "Key passphrase for the new user",
                new=True,
                when=_asks_for_new_passphrase,
            ),
        ),
        misuse=_binding_misuse,
        configured_misuse=_configured_binding_misuse,
    ),
    Command(
        "revoke-key-access",
        "Revoke a user's access to a key",
        "access:revoke_key_access",
        operands=(_KEY, _USER),
        options=(_PASSWORD,),
        secrets=_PASSPHRASE_OR_PASSWORD,
    ),
    Command(
        "get-public-key",
        "Print a key's public part",
        "keys:get_public_key",
        operands=(_KEY,),
        options=(_PASSWORD,),
        secrets=_PASSPHRASE_OR_PASSWORD,
    ),
    Command(
        "change-key-expiration",
        "Change a key's expiration date",
        "keys:change_key_expiration",
        operands=(_KEY,),
        options=(
            option(
                "--expire-date",
                metavar="YYYY-MM-DD",
                type=date,
                help="date at which the key expires (default: never)",
            ),
            option(
                "--subkey",
                metavar="N",
                type=subkey_number,
                help="number of the subkey to change, from 1 (default: the primary key)",
            ),
        ),
        secrets=(_PASSPHRASE,),
    ),
    Command(
        "change-passphrase",
        "Change the passphrase that unlocks your access to a key",
        "access:change_passphrase",
        operands=(_KEY,),
        options=_BINDINGS,
        secrets=(
            _PASSPHRASE,
            Ask("new_passphrase", "New key passphrase", new=True, when=_asks_for_new_passphrase),
        ),
        misuse=_binding_misuse,
        configured_misuse=_configured_binding_misuse,
    ),
    Command(
        "sign-text",
        "Clear-sign a text",
        "signing:sign_text",
        operands=(_KEY, Operand("file", "file with the text", reads=True)),
        options=(_OUTPUT,),
        secrets=(_PASSPHRASE,),
        output=_text,
    ),
    Command(
        "sign-data",
        "Make a detached signature",
        "signing:sign_data",
        operands=(
            _KEY,
            Operand("file", "file to sign; many with --output-dir", reads=True, many=True),
        ),
        options=(
            _OUTPUT,
            option("-a", "--armor", action="store_true", help="make an ASCII-armoured signature"),
            option(
                "--output-dir",
                metavar="DIR",
                type=Path,
                help="write each file's signature to DIR, which is made if need be, as FILE.sig, or"
                " FILE.asc with --armor",
            ),
        ),
        secrets=(_PASSPHRASE,),
        output=lambda arguments: None if arguments.output_dir is not None else not arguments.armor,
        misuse=_data_misuse,
        check="signing:check_data",
        unread=_has_output_directory,
    ),
    Command(
        "verify",
        "Verify a signature with a key's public part",
        "signing:verify",
        operands=(
            _KEY,
            Operand("file", "the file that is signed, or a clear-signed text"),
            Operand(
                "signature", "its detached signature; none for clear-signed text", optional=True
            ),
        ),
        options=(_PASSWORD,),
        secrets=_PASSPHRASE_OR_PASSWORD,
        check="signing:check_signed",
    ),
    Command(
        "decrypt",
        "Decrypt a message",
        "signing:decrypt",
        operands=(_KEY, Operand("file", "file with the message", reads=True)),
        options=(_OUTPUT,),
        secrets=(_PASSPHRASE,),
        output=_text,
    ),
    Command(
        "sign-git-tag",
        "Sign an annotated tag of the git repository here, in its place",
        "git_tags:sign_git_tag",
        operands=(_KEY, Operand("tag", "the tag's name")),
        secrets=(_PASSPHRASE,),
        prepare="git_tags:find_tag",
    ),
    Command(
        "sign-container",
        "Sign a container image",
        "signing:sign_container",
        operands=(
            _KEY,
            Operand("manifest", "file with the image's manifest", reads=True),
            Operand("reference", "the name under which the image is published"),
        ),
        options=(_OUTPUT,),
        secrets=(_PASSPHRASE,),
        output=_binary,
    ),
    Command(
        "sign-ostree",
        "Sign an OSTree commit",
        "signing:sign_ostree",
        operands=(
            _KEY,
            Operand("hash", "the commit's name: the SHA-256 of its object"),
            Operand("file", "file with the commit object", reads=True),
        ),
        options=(
            _OUTPUT,
            option(
                "--commitmeta",
                metavar="FILE",
                type=Path,
                help="the .commitmeta that the commit has: what it holds is kept, signatures too",
            ),
        ),
        secrets=(_PASSPHRASE,),
        output=_binary,
        prepare="signing:read_commitmeta",
    ),
    Command(
        "sign-certificate",
        "Issue an X.509 certificate for a key and print it",
        "certificates:sign_certificate",
        operands=(
            Operand("issuer_key", "the key that signs the certificate"),
            Operand("subject_key", "the key that the certificate is for"),
        ),
        options=_certificate_options(),
        secrets=(Ask("passphrase", "Issuer key passphrase", from_file=True),),
        misuse=_subject_misuse,
    ),
    Command(
        "sign-pe",
        "Sign a PE image",
        "signing:sign_pe",
        operands=(
            _KEY,
            Operand("cert_name", "the name of the key's certificate"),
            Operand("file", "file with the image", reads=True),
        ),
        options=(_OUTPUT,),
        secrets=(_PASSPHRASE,),
        output=_binary,
    ),
    Command(
        "sign-rpm",
        "Sign an RPM",
        "rpm:sign_rpm",
        operands=(_KEY, Operand("rpm", "the RPM: a file, or a NEVRA in Koji", reads=True)),
        options=(_REPLACING_OUTPUT, *_RPM_OPTIONS),
        secrets=_RPM_SECRETS,
        output=lambda arguments: None if arguments.koji_only else True,
        replaces=True,
        misuse=_rpm_misuse,
        check="rpm:check_rpm",
        unread=_is_in_koji,
    ),
    Command(
        "sign-rpms",
        "Sign RPMs",
        "rpm:sign_rpms",
        operands=(_KEY, Operand("rpm", "the RPMs: files, or NEVRAs in Koji", many=True)),
        options=(
            option(
                "-o",
                "--output",
                metavar="DIR",
                type=Path,
                help="write the signed RPMs to DIR, which is made if need be; one that is there"
                " already is replaced",
            ),
            *_RPM_OPTIONS,
        ),
        secrets=_RPM_SECRETS,
        misuse=_rpms_misuse,
        check="rpm:check_rpms",
    ),
    Command(
        "list-binding-methods",
        "List the binding methods of this client",
        "bindings:list_binding_methods",
        local=True,
    ),
    Command(
        "list-server-binding-methods",
        "List the binding methods of the server",
        "bindings:list_server_binding_methods",
        secrets=(_ADMIN,),
    ),
)


def command_named(name: str) -> Command | None:
    """The command `name`, or None."""
    return next((command for command in COMMANDS if command.name == name), None)
