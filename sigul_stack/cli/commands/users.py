"""Commands about users, for administrators."""

from __future__ import annotations

from .execution import Invocation
from .printing import print_lines


def _yes_no(truth: bool) -> str:
    return "yes" if truth else "no"


def _truth(answer: str | None) -> bool | None:
    return None if answer is None else answer == "yes"


def list_users(call: Invocation) -> None:
    """`sigul list-users`: names, one a line."""
    print_lines(call.client.list_users(call.secrets["password"]))


def new_user(call: Invocation) -> None:
    """`sigul new-user USER`."""
    call.client.new_user(
        call.secrets["password"],
        call.arguments.user,
        admin=call.arguments.admin,
        new_password=call.secrets.get("new_password"),
    )


def delete_user(call: Invocation) -> None:
    """`sigul delete-user USER`."""
    call.client.delete_user(call.secrets["password"], call.arguments.user)


def user_info(call: Invocation) -> None:
    """`sigul user-info USER`."""
    info = call.client.user_info(call.secrets["password"], call.arguments.user)
    print_lines([f"Administrator: {_yes_no(info.admin)}"])


def modify_user(call: Invocation) -> None:
    """`sigul modify-user USER`."""
    call.client.modify_user(
        call.secrets["password"],
        call.arguments.user,
        admin=_truth(call.arguments.admin),
        new_name=call.arguments.new_name,
        new_password=call.secrets.get("new_password"),
    )


def key_user_info(call: Invocation) -> None:
    """`sigul key-user-info USER KEY`; a user without access is no error."""
    info = call.client.key_user_info(
        call.secrets["password"], call.arguments.user, call.arguments.key
    )
    if info is None:
        print_lines(["No access defined"])
    else:
        print_lines([f"Access defined, key administrator: {_yes_no(info.key_admin)}"])


def modify_key_user(call: Invocation) -> None:
    """`sigul modify-key-user USER KEY`."""
    call.client.modify_key_user(
        call.secrets["password"],
        call.arguments.user,
        call.arguments.key,
        key_admin=_truth(call.arguments.key_admin),
    )
