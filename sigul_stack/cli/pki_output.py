"""The output of `sigul-stack pki`: certificates, checks and steps, as text or JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from .. import pki
from ..checks import Check, State
from .outcome import say, say_text

_TO_DO: Final = {
    "none": "One CA issues and is trusted.",
    "begun": "Take the databases to their components and SIGHUP the daemons; then: issue",
    "issuing": "Take the databases to their components and SIGHUP the daemons. Once every leaf is"
    " of the new CA and in use: finish",
}


def print_certificate(done: str, item: pki.CertificateInfo, database: pki.NSSDatabase) -> None:
    """Print one line about a certificate that was just `done`."""
    names = f" ({', '.join(item.names)})" if item.names else ""
    say(
        f"{done} '{item.nickname}' in {database.directory}: {item.common_name}{names}, valid until"
        f" {item.not_after:%Y-%m-%d} ({item.days_left()} days)"
    )


def print_entry(item: pki.CertificateInfo, warn_days: int) -> None:
    """Print all about a certificate, over several lines."""
    left = item.days_left()
    state = ", EXPIRED" if item.expired() else ", expires soon" if left < warn_days else ""
    kind = "CA" if item.is_authority else "leaf"
    if item.is_authority and item.has_private_key:
        kind = {"next": "the next CA", "old": "the old CA"}.get(
            item.nickname.rpartition("-")[2], kind
        )
    say(f"  {item.nickname}")
    rows = [
        ("subject", f"{item.common_name} ({kind})"),
        ("names", ", ".join(item.names)),
        ("issuer", item.issuer),
        ("serial", item.serial),
        ("valid", f"until {item.not_after:%Y-%m-%d} ({left} days left{state})"),
        ("key", "private key is here" if item.has_private_key else "no private key"),
        ("trust", item.trust),
    ]
    for label, value in rows:
        if value:
            say(f"    {label:8} {value}")


def certificate_json(item: pki.CertificateInfo) -> dict[str, Any]:
    """All about a certificate as data."""
    return {
        "nickname": item.nickname,
        "common_name": item.common_name,
        "names": list(item.names),
        "issuer": item.issuer,
        "serial": item.serial,
        "not_before": item.not_before.isoformat(),
        "not_after": item.not_after.isoformat(),
        "days_left": item.days_left(),
        "expired": item.expired(),
        "authority": item.is_authority,
        "has_private_key": item.has_private_key,
        "trust": item.trust,
        "sha256": item.fingerprint,
    }


def print_tuned(directory: Path, result: pki.Tuned) -> None:
    """Print what became of a database that was to be tuned."""
    before, after = result.before, result.after
    if result.backup is None:
        say(f"kept {directory}: its rounds of key derivation are {after.most_rounds} already")
        return
    say(
        f"tuned {directory}: {after.most_rounds} rounds of key derivation, not"
        f" {before.most_rounds}, which cost {before.milliseconds_a_use():.0f} ms at each use of the"
        f" private key; the old keys are in {result.backup}: remove it once all works"
    )


def tuned_json(directory: Path, result: pki.Tuned) -> dict[str, object]:
    """The same as data."""
    return {
        "database": str(directory),
        "changed": result.backup is not None,
        "rounds_before": result.before.most_rounds,
        "rounds": result.after.most_rounds,
        "backup": None if result.backup is None else str(result.backup),
    }


def print_checks(checks: list[Check], *, as_json: bool) -> None:
    """Print the checks of a database, as text or JSON, in which a failure is an `error`."""
    rows = [
        ("error" if item.state is State.FAILED else item.state.word, item.layer, str(item))
        for item in checks
    ]
    if as_json:
        print_json([dict(zip(("severity", "topic", "message"), row, strict=True)) for row in rows])
    else:
        for severity, topic, message in rows:
            say(f"{severity:8} {topic}: {message}")


def print_json(value: object) -> None:
    """Print `value`, indented."""
    say_text(json.dumps(value, indent=2))


def print_rollover(
    rollover: pki.Rollover, done: list[pki.RolloverChange], *, as_json: bool
) -> None:
    """Print what a step did, and how far the rollover has come."""
    progress = rollover.progress() if rollover.phase is not pki.Phase.NONE else []
    if as_json:
        print_json(
            {
                "phase": rollover.phase.value,
                "authority": rollover.new.subject.rfc4514_string(),
                "done": [
                    {"database": str(item.directory), "result": item.action.value} for item in done
                ],
                "databases": [
                    {
                        "database": str(item.directory),
                        "trusts_old": item.trusts_old,
                        "trusts_new": item.trusts_new,
                        "issued_by_new": item.issued_by_new,
                    }
                    for item in progress
                ],
            }
        )
        return
    for change in done:
        say(f"{change.action.value:8} {change.directory}")
    for item in progress:
        trusted = " and ".join(
            name for name, has in (("old", item.trusts_old), ("new", item.trusts_new)) if has
        )
        own = "new" if item.issued_by_new else "old"
        say(f"{item.directory}: trusts the {trusted or 'no'} CA, has a leaf of the {own} one")
    say(f"rollover: {rollover.phase.value}. {_TO_DO[rollover.phase.value]}")
