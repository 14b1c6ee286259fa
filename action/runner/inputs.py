"""The action's inputs, from the environment, where action.yml puts each as `INPUT_NAME`.

Each is checked here, once. Nothing of a secret is in any message.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import Rejected

#: Bytes of the bundle as text, at most; `sigul-stack bundle` has the limits of what is in it.
MAX_BUNDLE = 2_097_152
#: Bytes of the configuration, at most.
MAX_CONFIGURATION = 1 << 20
#: Bytes of the public key, at most.
MAX_PUBLIC_KEY = 1 << 20

_HOST = re.compile(
    r"(?=.{1,253}\.?\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*"
    r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.?\Z",
    re.IGNORECASE,
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
#: A name of an image without tag and digest: registry, path.
_IMAGE = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*\Z"
)


@dataclass(frozen=True)
class Inputs:
    """The wishes of the workflow. Times are in seconds; secrets are in no `repr`."""

    sign_type: str
    sign_object: str
    configuration: str = field(repr=False)
    key: str
    passphrase: str = field(repr=False)
    bundle: str = field(repr=False)
    public_key: str
    #: Name and address of the bridge for the container's hosts file; None: no entry.
    hosts_entry: tuple[str, str] | None
    expected_bridge: str
    #: The image's reference, with a tag or digest.
    image: str
    gh_user: str
    gh_key: str = field(repr=False)
    push_tag: bool
    dry_run: bool
    exclude_globs: tuple[str, ...]
    max_retries: int
    retry_delay: int
    attempt_timeout: int

    @property
    def is_tag(self) -> bool:
        """True where a tag is signed, not files."""
        return self.sign_type == "sign-git-tag"


def first_line(text: str) -> str:
    """The first line of a text, without its end."""
    return text.split("\n", 1)[0].rstrip("\r")


def read_inputs(environment: Mapping[str, str]) -> Inputs:
    """The inputs in `environment`. Raises `Rejected`."""
    given = _Given(environment)
    sign_type = given.one_of("sign-type", "sign-data", "sign-git-tag")
    passphrase = first_line(given.text("sigul-pass"))
    if not passphrase or "\0" in passphrase:
        raise Rejected("sigul-pass has an empty first line: give the key's passphrase there")
    if given.flag("allow-legacy"):
        pass  # for workflows that have it; nothing here is legacy
    return Inputs(
        sign_type=sign_type,
        sign_object=given.required("sign-object"),
        configuration=given.required("sigul-conf", MAX_CONFIGURATION),
        key=given.line("sigul-key-name"),
        passphrase=passphrase,
        bundle=given.required("sigul-pki", MAX_BUNDLE),
        public_key=_public_key(given),
        hosts_entry=_hosts_entry(given),
        expected_bridge=expected_bridge(given.text("expected-bridge").strip()),
        image=_image(given),
        gh_user=given.text("gh-user").strip() or environment.get("GITHUB_ACTOR", ""),
        gh_key=given.text("gh-key").strip(),
        push_tag=given.flag("push-tag"),
        dry_run=given.flag("dry-run"),
        exclude_globs=tuple(given.text("exclude-globs").split()),
        max_retries=given.number("max-retries", 1),
        retry_delay=given.number("retry-delay", 0),
        attempt_timeout=given.number("attempt-timeout", 0),
    )


class _Given:
    """Inputs as texts, by their names in action.yml."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def text(self, name: str) -> str:
        """The text of an input; empty where it was not given."""
        text = self._environment.get(f"INPUT_{name.upper().replace('-', '_')}", "")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise Rejected(f"{name} is not UTF-8") from None
        return text

    def required(self, name: str, most: int = 1 << 24) -> str:
        text = self.text(name)
        if not text.strip():
            raise Rejected(f"{name} is empty: it has to be given")
        if len(text.encode("utf-8")) > most:
            raise Rejected(f"{name} is longer than {most} bytes")
        return text

    def line(self, name: str) -> str:
        text = self.required(name).strip()
        if not text.isprintable():
            raise Rejected(f"{name} has to be one line of printable characters")
        return text

    def one_of(self, name: str, *choices: str) -> str:
        text = self.text(name).strip()
        if text not in choices:
            raise Rejected(f"{name} has to be one of: {', '.join(choices)}")
        return text

    def flag(self, name: str) -> bool:
        return self.one_of(name, "true", "false") == "true"

    def number(self, name: str, least: int) -> int:
        text = self.text(name).strip()
        if not re.fullmatch("[0-9]{1,5}", text, re.ASCII) or not least <= int(text) <= 86400:
            raise Rejected(f"{name} has to be a number of at least {least} and at most 86400")
        return int(text)


def _public_key(given: _Given) -> str:
    text = given.text("public-key").strip()
    if not text:
        return ""
    if len(text) > MAX_PUBLIC_KEY:
        raise Rejected(f"public-key is longer than {MAX_PUBLIC_KEY} bytes")
    if not text.startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----"):
        raise Rejected("public-key is no armoured OpenPGP key: sigul get-public-key prints one")
    return text + "\n"


def _hosts_entry(given: _Given) -> tuple[str, str] | None:
    # `auto` is an entry for clients of old; ours needs none.
    wanted = given.one_of("sigul-hosts-entry", "auto", "true", "false") == "true"
    name, address = given.text("sigul-uri").strip(), given.text("sigul-ip").strip()
    if name and not _HOST.match(name):
        raise Rejected("sigul-uri is no host name")
    if address:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise Rejected("sigul-ip is no IP address") from None
    if not wanted:
        return None
    if not name or not address:
        raise Rejected("sigul-hosts-entry is true: give sigul-uri and sigul-ip, too")
    return name, address


def expected_bridge(text: str) -> str:
    """`HOST:PORT` in lower case, without a last dot; empty for an empty text. Raises `Rejected`."""
    if not text:
        return ""
    host, _, port = text.rpartition(":")
    if (
        not _HOST.match(host)
        or not re.fullmatch("[0-9]{1,5}", port, re.ASCII)
        or not 0 < int(port) < 65536
    ):
        raise Rejected("expected-bridge has to be DNS_HOST:PORT, such as bridge.example.org:44334")
    name = host.lower()
    return f"{name[:-1] if name.endswith('.') else name}:{int(port)}"


def _image(given: _Given) -> str:
    """The reference of the image to run: by its digest where there is one, else by its tag."""
    name = given.text("container-image").strip()
    tag, digest = given.text("container-tag").strip(), given.text("container-digest").strip()
    built_in = given.text("container").strip()
    if not name:
        about = f"container is {built_in!r}, but " if built_in in ("legacy", "modern") else ""
        raise Rejected(
            f"{about}no image of a client is built into this action: name yours of this release as"
            " container-image, with container-tag or container-digest"
        )
    if built_in not in ("", "legacy", "modern"):
        raise Rejected("container has to be empty; container-image names the image")
    if not _IMAGE.match(name):
        raise Rejected("container-image is no name of an image without tag and digest")
    if digest:
        if not _DIGEST.match(digest):
            raise Rejected("container-digest has to be sha256: and 64 hex digits")
        return f"{name}@{digest}"
    if not tag:
        raise Rejected("container-image needs a container-tag or a container-digest")
    if not _TAG.match(tag):
        raise Rejected("container-tag is no tag")
    return f"{name}:{tag}"
