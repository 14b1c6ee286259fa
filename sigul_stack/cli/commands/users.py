"""Commands about users, for administrators."""

from __future__ import annotations

from ..outcome import print_lines
from ..shared_arguments import argument
from .arguments import ADMIN_PASSWORD, KEY, LIMITS, USER, YES_NO, limits
from .command import CommandGroup, SecretPrompt
from .planning import Call

COMMANDS = CommandGroup()


def _yes_no(truth: bool) -> str:
    return "yes" if truth else "no"


def _truth(answer: str | None) -> bool | None:
    return None if answer is None else answer == "yes"


@COMMANDS.request("list-users", "List users", secrets=[ADMIN_PASSWORD])
def list_users(call: Call) -> None:
    """Print the users' names, one a line."""
    print_lines(call.client.list_users(call.secrets["password"]))


@COMMANDS.request(
    "new-user",
    "Add a user",
    USER,
    argument("--admin", action="store_true", help="make the user an administrator"),
    argument("--with-password", action="store_true", help="give the user a password"),
    secrets=[
        ADMIN_PASSWORD,
        SecretPrompt(
            "new_password",
            "New user's password",
            new=True,
            when=lambda arguments: arguments.admin or arguments.with_password,
        ),
    ],
)
def new_user(call: Call) -> None:
    """Make the user."""
    call.client.new_user(
        call.secrets["password"],
        call.arguments.user,
        admin=call.arguments.admin,
        new_password=call.secrets.get("new_password"),
    )


@COMMANDS.request("delete-user", "Delete a user", USER, secrets=[ADMIN_PASSWORD])
def delete_user(call: Call) -> None:
    """Delete the user."""
    call.client.delete_user(call.secrets["password"], call.arguments.user)


@COMMANDS.request("user-info", "Show information about a user", USER, secrets=[ADMIN_PASSWORD])
def user_info(call: Call) -> None:
    """Print whether the user is an administrator."""
    info = call.client.user_info(call.secrets["password"], call.arguments.user)
    print_lines([f"Administrator: {_yes_no(info.admin)}"])


@COMMANDS.request(
    "modify-user",
    "Modify a user",
    USER,
    argument("--admin", choices=YES_NO, help="whether the user is an administrator"),
    argument("--new-name", metavar="NAME", help="rename the user"),
    argument("--change-password", action="store_true", help="set a new password"),
    secrets=[
        ADMIN_PASSWORD,
        SecretPrompt(
            "new_password",
            "User's new password",
            new=True,
            when=lambda arguments: bool(arguments.change_password),
        ),
    ],
)
def modify_user(call: Call) -> None:
    """Change of the user what the options name."""
    call.client.modify_user(
        call.secrets["password"],
        call.arguments.user,
        admin=_truth(call.arguments.admin),
        new_name=call.arguments.new_name,
        new_password=call.secrets.get("new_password"),
    )


@COMMANDS.request(
    "key-user-info",
    "Show information about a user's access to a key",
    USER,
    KEY,
    secrets=[ADMIN_PASSWORD],
)
def key_user_info(call: Call) -> None:
    """Print whether the user may manage the key's users; a user without access is no error."""
    info = call.client.key_user_info(
        call.secrets["password"], call.arguments.user, call.arguments.key
    )
    if info is None:
        print_lines(["No access defined"])
    else:
        print_lines([f"Access defined, key administrator: {_yes_no(info.key_admin)}"])
        if info.only is not None:
            print_lines([f"Only: {', '.join(info.only)}"])
        if info.rpm_names is not None:
            print_lines([f"RPMs named: {', '.join(info.rpm_names)}"])


@COMMANDS.request(
    "modify-key-user",
    "Modify a user's access to a key",
    USER,
    KEY,
    argument("--key-admin", choices=YES_NO, help="whether the user administers the key"),
    *LIMITS,
    secrets=[ADMIN_PASSWORD],
)
def modify_key_user(call: Call) -> None:
    """Change of the user's access what the option names."""
    call.client.modify_key_user(
        call.secrets["password"],
        call.arguments.user,
        call.arguments.key,
        key_admin=_truth(call.arguments.key_admin),
        **limits(call.arguments),
    )
