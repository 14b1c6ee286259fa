"""The library `fasjson-client` with limits on its waiting, which it does not have by itself.

Its own client fetches the service's description and then calls what stands there; both requests
get the timeout here.
"""

from __future__ import annotations

from typing import Any

from ..errors import SigulError


class NotInstalled(SigulError):
    """The library is not there."""


def groups_of(
    user: str, url: str, principal: str | None, timeout: float, max_pages: int
) -> set[str]:
    """The names of the groups of `user`; none where the service does not know the user.

    Raises `NotInstalled`, and whatever the library raises.
    """
    try:
        from bravado.client import SwaggerClient
        from fasjson_client import Client
        from fasjson_client.client import RequestsClientFollowingRedirects
        from fasjson_client.errors import APIError
        from fasjson_client.gss_http import GssapiAuthenticator
    except ModuleNotFoundError as error:
        raise NotInstalled(
            f"the Python module {error.name} is not installed", "install sigul-stack[fasjson]"
        ) from None
    from urllib.parse import urlsplit

    class Limited(RequestsClientFollowingRedirects):  # type: ignore[misc]
        def separate_params(self, request_params: dict[str, Any]) -> Any:
            request_params["timeout"] = request_params["connect_timeout"] = timeout
            return super().separate_params(request_params)

    class Patient(Client):  # type: ignore[misc]
        def _make_bravado_client(self) -> Any:
            http_client = Limited()
            http_client.authenticator = GssapiAuthenticator(
                urlsplit(self._base_url).netloc, principal=self._principal
            )
            return SwaggerClient.from_url(
                self._spec_url, http_client=http_client, config=self._bravado_config
            )

    client = Patient(url, principal=principal)
    found: set[str] = set()
    try:
        answer = client.list_user_groups(username=user)
        for _ in range(max_pages):
            found |= _names(answer.result)
            page = answer.page
            if not page or page["page_number"] >= page["total_pages"]:
                break
            answer = answer.next_page()
    except APIError as error:
        if error.code == 404:
            return set()
        raise
    return found


def _names(rows: object) -> set[str]:
    """The groups' names in a page of an answer."""
    if not isinstance(rows, list):
        raise ValueError("the answer is no list of groups")
    names = set()
    for row in rows:
        # The library makes objects of records whose form the description tells.
        name = row["groupname"] if isinstance(row, dict) else getattr(row, "groupname", None)
        if not isinstance(name, str):
            raise ValueError("the answer has a group without a name")
        names.add(name)
    return names
