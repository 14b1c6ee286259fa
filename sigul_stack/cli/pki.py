"""`sigul-stack pki`: certificates into NSS databases, and a look at what is in them.

Each command is a function of its arguments, and gives an exit status where that can be another than
0; what it does is in `sigul_stack.pki`, what its arguments are in `pki_arguments`. Results go to
standard output, one line a thing or JSON; errors are raised for the program to print.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .. import pki
from ..checks import any_failed
from ..errors import ConfigurationError, NSSError
from ..secret import Secret
from .outcome import say
from .pki_arguments import declare
from .pki_output import (
    certificate_json,
    print_certificate,
    print_checks,
    print_entry,
    print_json,
    print_rollover,
)
from .secret_input import SecretReader, Terminal
from .shared_arguments import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add `pki` and its commands; each sets `func`, from arguments to exit status."""
    declare(
        subparsers,
        {
            "site": run_site,
            "init-ca": run_init_ca,
            "issue": run_issue,
            "import": run_import,
            "export": run_export,
            "list": run_list,
            "check": run_check,
            "renew": run_renew,
            "renew-ca": run_renew_ca,
            "rollover": run_rollover,
            "remove": run_remove,
            "convert": run_convert,
            "tune": run_tune,
        },
    )


def run_site(args: argparse.Namespace) -> None:
    """`pki site`."""
    site = pki.make_site(
        args.dir,
        bridge=args.bridge,
        server=args.server,
        users=args.user,
        bridge_names=_split(args.bridge_san),
        server_names=_split(args.server_san),
        lifetime=args.years,
        key_kind=pki.KeyKind(args.key_type),
        authority_lifetime=args.ca_years,
        authority_password=_given_password(args.ca_password_file),
        permissions=_permissions(args),
    )
    made = [
        ("ca", site.authority_directory, site.authority_made.value),
        *(
            (f"{item.role.value} {item.name}", item.directory, item.made.value)
            for item in site.components
        ),
    ]
    if args.json:
        print_json(
            [
                {"what": what, "directory": str(directory), "result": result}
                for what, directory, result in made
            ]
        )
    else:
        for what, directory, result in made:
            say(f"{result:8} {what}: {directory}")
    if args.server.lower() in (name.lower() for name in (args.bridge, *_split(args.bridge_san))):
        say(
            f"warning: the bridge's certificate also names the server ({args.server}), so the"
            " bridge could play it; give the server a name of its own (it need not resolve), or set"
            " require-own-server-key: yes for all clients",
            error=True,
        )


def run_init_ca(args: argparse.Namespace) -> None:
    """`pki init-ca`."""
    permissions = _permissions(args)
    password = _database_password(args.dir, args.password_file, permissions)
    authority = pki.Authority.create(
        *(args.dir, password), name=args.name, lifetime=args.years, permissions=permissions
    )
    say(f"made the CA in {args.dir}; its certificate is {authority.pem_file}")


def run_issue(args: argparse.Namespace) -> None:
    """`pki issue`."""
    role = pki.Role(args.role)
    request = pki.LeafRequest(
        *(role, args.name, _split(args.san), args.years, args.key_bits),
        pki.KeyKind(args.key_type),
    )
    authority = _open_authority(args)
    nickname = args.nickname or role.nickname
    leaf = authority.issue(request)
    database = _target(args)
    with database.filling(_permissions(args)) as store:
        pki.put_leaf(store, leaf, nickname, authorities=authority.trusted)
    pki.register(authority, [database.directory])
    print_certificate("issued", database.find(nickname), database)


def run_import(args: argparse.Namespace) -> None:
    """`pki import`."""
    bundle = _bundle(args)
    given = tuple(item for path in args.ca for item in pki.read_certificates(path))
    if bundle is None and not given:
        raise ConfigurationError("there is nothing to import: give --pkcs12, --cert or --ca")
    if bundle is not None and not args.nickname:
        if args.role is None:
            raise ConfigurationError(
                "give the certificate the --nickname that the configuration names, for example"
                " sigul-bridge-cert",
                "or say with --role whose it is: then it gets that one's usual nickname",
            )
        args.nickname = pki.Role(args.role).nickname
    database = _target(args)
    warnings = list(pki.authority_warnings(given))
    with database.filling(_permissions(args)) as store:
        outdated = pki.put_bundle(
            *(store, bundle, given, args.nickname), replace=args.replace, as_authority=args.as_ca
        )
        if bundle is not None and not args.as_ca:
            warnings += pki.accept_leaf(store, args.nickname, _role(args), _split(args.name))
    database.delete_keys(outdated)
    for check in warnings:
        say(f"warning: {check}", error=True)
    if args.as_ca and database.password is not None:
        pki.Authority.open(args.into, database.password, nickname=args.nickname).write_pem()
    for item in database.certificates():
        if item.nickname == args.nickname or item.certificate in given:
            print_certificate("imported", item, database)


def run_export(args: argparse.Namespace) -> None:
    """`pki export`."""
    permissions = _permissions(args)
    if args.to is None and None in (args.cert, args.key, args.ca):
        raise ConfigurationError(
            "there is no place to write to: give --to DIRECTORY, or all of --cert, --key and --ca"
        )
    database = _existing(args)
    leaf = pki.find_leaf(database, args.nickname)
    paths = pki.PEMPaths.of(
        *(leaf.nickname, args.to or Path()), certificate=args.cert, key=args.key,
        authorities=args.ca,
    )  # fmt: skip
    passphrase = _key_passphrase(args)
    files = pki.export_pem(database, leaf, passphrase)
    pki.write_pem_files(files, paths, permissions, replace=args.replace)
    print_certificate("exported", leaf, database)
    for what, path in (("certificate", paths.certificate), ("key", paths.key)):
        say(f"  {what:12}{path}{' (encrypted)' if what == 'key' and passphrase else ''}")
    say(f"  {'CAs':12}{paths.authorities} ({files.authorities.count(b'-----BEGIN')})")
    for note in files.notes:
        say(f"warning: {note}", error=True)


def _key_passphrase(args: argparse.Namespace) -> Secret | None:
    """The passphrase that an exported key gets: from a file, asked for, or none."""
    if args.key_password_file is not None and args.ask_key_password:
        raise ConfigurationError("give either --key-password-file or --ask-key-password")
    if args.ask_key_password:
        return SecretReader(batch=False).read_new("New passphrase of the exported key")
    if args.key_password_file is None:
        return None
    passphrase = pki.read_password(args.key_password_file)
    if args.key_password_file.is_file() and args.key_password_file.read_bytes()[-1:] == b"\n":
        say(
            f"warning: the line end of '{args.key_password_file}' is no part of the passphrase, and"
            " siguldry takes its passphrase file whole: give it a file without one (printf %s)",
            error=True,
        )
    return passphrase


def _role(args: argparse.Namespace) -> pki.Role | None:
    """The role of an imported certificate, as given or by its nickname; None where neither says."""
    if args.role is not None:
        return pki.Role(args.role)
    role = next((item for item in pki.Role if item.nickname == args.nickname), None)
    if role is None and args.name:
        raise ConfigurationError("--name needs to know whose names these are: give --role")
    return role


def _bundle(args: argparse.Namespace) -> pki.Bundle | None:
    if args.pkcs12 and (args.cert or args.key):
        raise ConfigurationError("give either --pkcs12, or --cert and --key")
    if args.pkcs12:
        return pki.read_pkcs12(args.pkcs12, _given_password(args.pkcs12_password_file))
    if args.cert and args.key:
        return pki.read_pem(args.cert, args.key, _given_password(args.key_password_file))
    if args.cert or args.key:
        raise ConfigurationError("--cert and --key go together: give both (they may be one file)")
    return None


def run_list(args: argparse.Namespace) -> int:
    """`pki list`."""
    expired = False
    listed: list[dict[str, object]] = []
    for directory in args.directories:
        database = pki.NSSDatabase(directory, _known_password(directory, args.password_file))
        certificates = database.certificates()
        for item in certificates:
            if item.expired():
                expired = True
                say(
                    f"'{item.nickname}' in '{directory}' expired on {item.not_after:%Y-%m-%d}",
                    error=True,
                )
        if args.json:
            listed.append(
                {
                    "database": str(directory),
                    "certificates": [certificate_json(item) for item in certificates],
                }
            )
        else:
            say(str(directory))
            for item in certificates:
                print_entry(item, args.warn_days)
    if args.json:
        print_json(listed)
    return 1 if expired else 0


def run_check(args: argparse.Namespace) -> int:
    """`pki check`."""
    checks = pki.inspect_database(
        pki.NSSDatabase(args.directory, _known_password(args.directory, args.password_file)),
        pki.Role(args.role),
        nickname=args.nickname,
        names=_split(args.name),
        warn_days=args.warn_days,
    )
    print_checks(checks, as_json=args.json)
    return 1 if any_failed(checks) else 0


def run_renew(args: argparse.Namespace) -> None:
    """`pki renew`."""
    database = _existing(args)
    renewed = pki.renew_leaf(
        *(_open_authority(args), database, args.nickname),
        lifetime=args.years,
        new_key=args.new_key,
        names=_split(args.san),
    )
    print_certificate("renewed", renewed, database)


def run_renew_ca(args: argparse.Namespace) -> None:
    """`pki renew-ca`."""
    authority = _open_authority(args)
    authority.renew_self(args.years)
    end = authority.certificate.not_valid_after_utc
    say(f"renewed the CA in {args.ca}, valid until {end:%Y-%m-%d}: {authority.pem_file}")


def run_rollover(args: argparse.Namespace) -> None:
    """`pki rollover`."""
    rollover = pki.Rollover(_open_authority(args), lambda path: _database_password(path, None))
    if args.step == "begin" and not rollover.directories(args.into):
        raise ConfigurationError(
            "name the NSS databases of all components with --into: what is left out would not trust"
            " the new CA"
        )
    match args.step:
        case "begin":
            done = rollover.begin(args.into, name=args.name, lifetime=args.years)
        case "issue":
            done = rollover.issue(args.into, new_key=args.new_key)
        case "finish":
            done = rollover.finish(args.into)
        case _:
            done = []
    print_rollover(rollover, done, as_json=args.json)


def run_remove(args: argparse.Namespace) -> None:
    """`pki remove`."""
    if args.others:
        count = _existing(args).remove_others(args.nickname)
        say(f"removed {count} older of '{args.nickname}' from {args.directory}")
        return
    _existing(args).remove(args.nickname)
    say(f"removed '{args.nickname}' from {args.directory}")


def run_convert(args: argparse.Namespace) -> None:
    """`pki convert`."""
    database = pki.NSSDatabase(args.directory)
    if database.recognise() is pki.DatabaseKind.DBM:
        database.password = _database_password(args.directory, args.password_file)
    database.convert()
    held = ", ".join(item.nickname for item in database.certificates())
    say(f"converted {args.directory}, which holds {held}; cert8.db and key3.db are still there")


def run_tune(args: argparse.Namespace) -> None:
    """`pki tune`."""
    for directory in args.directories:
        pki.NSSDatabase(directory).require()
        password = _database_password(directory, args.password_file)
        done = pki.NSSDatabase(directory, password).tune()
        if done.kept is None:
            say(f"{directory}: its keys have as few rounds as can be already")
        else:
            say(f"{directory}: was {done.before.text}, is {done.after.text}; before: {done.kept}")


def _split(names: list[str]) -> tuple[str, ...]:
    """Names given one at a time or with commas between them."""
    return tuple(part.strip() for name in names for part in name.split(",") if part.strip())


def _permissions(args: argparse.Namespace) -> pki.Permissions:
    return pki.Permissions.parse(args.owner, args.mode)


def _given_password(path: Path | None) -> Secret | None:
    return None if path is None else pki.read_password(path)


def _known_password(directory: Path, given: Path | None) -> Secret | None:
    """The password of a database, where it is known without asking."""
    if given is not None:
        return pki.read_password(given)
    return pki.password_beside(pki.NSSDatabase(directory).directory)


def _database_password(
    directory: Path, given: Path | None, permissions: pki.Permissions | None = None
) -> Secret:
    """The password of a database: from its file, asked for, or (with `permissions`) made."""
    known = _known_password(directory, given)
    if known is not None:
        return known
    database = pki.NSSDatabase(directory)
    if permissions is not None and database.recognise() is pki.DatabaseKind.MISSING:
        return pki.make_password_file(database.directory, permissions)
    if sys.stdin.isatty():
        with Terminal.controlling() as terminal:
            return Secret(terminal.ask(f"Password of the NSS database in {directory}"))
    raise NSSError(
        f"the password of the NSS database in '{directory}' is not known",
        "give --password-file (for a CA's: --ca-password-file)",
    )


def _existing(args: argparse.Namespace) -> pki.NSSDatabase:
    """The database of the positional argument, which has to be there."""
    pki.NSSDatabase(args.directory).require()
    return pki.NSSDatabase(args.directory, _database_password(args.directory, args.password_file))


def _target(args: argparse.Namespace) -> pki.NSSDatabase:
    """The database of `--into`, whose password is made where there is no database yet."""
    return pki.NSSDatabase(
        args.into, _database_password(args.into, args.password_file, _permissions(args))
    )


def _open_authority(args: argparse.Namespace) -> pki.Authority:
    pki.NSSDatabase(args.ca).require()
    return pki.Authority.open(
        args.ca, _database_password(args.ca, args.ca_password_file), nickname=args.ca_nickname
    )
