"""The command line of `images/build`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Final

from . import engine, monitoring
from .build import Builder, layers_of
from .commands import BuildError, say
from .components import CHARTS, COMPONENTS
from .programs import CHECKOUT

_CACHE: Final = CHECKOUT / ".cache" / "images"


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        prog="images/build",
        description="Make the container images base, bridge, server and client; monitoring, and"
        " those for Helm charts, where they are named.",
        epilog="Prints `IMAGE ID` of each. Needs a container engine: see scripts/engine.",
    )
    parser.add_argument(
        "--prefix",
        default=os.environ.get("SIGUL_IMAGE_PREFIX") or "sigul-stack",
        help="what the images' names begin with (default: SIGUL_IMAGE_PREFIX or sigul-stack)",
    )
    parser.add_argument(
        "--base-image",
        default=os.environ.get("BASE_IMAGE") or None,
        help="a Debian 13 image to build on (default: BASE_IMAGE, or a root made from packages)",
    )
    parser.add_argument("--refresh", action="store_true", help="take Debian's packages anew")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    parser.add_argument(
        "component", nargs="*", choices=[[], "base", *COMPONENTS, *CHARTS, monitoring.NAME]
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=_CACHE,
        help="where packages, wheels and layers are kept (default: .cache/images)",
    )
    parser.add_argument(
        "--missing", action="store_true", help="print the images that would be built; make nothing"
    )
    parser.add_argument(
        "--remove", action="store_true", help="remove what was made under the prefix; make nothing"
    )
    arguments = parser.parse_args()
    began = time.monotonic()
    names = [name for name in arguments.component or COMPONENTS if name != "base"]
    try:
        engine.check()
        if arguments.remove:
            _remove(arguments.prefix, arguments.component, arguments.cache)
            return
        if arguments.missing and arguments.base_image and not engine.find(arguments.base_image):
            print(arguments.base_image)
            return
        builder = Builder(
            arguments.prefix, arguments.base_image, arguments.refresh, arguments.cache.absolute()
        )
        if arguments.missing:
            print("".join(f"{builder.image(name)}\n" for name in builder.missing(names)), end="")
            return
        made = builder.make(names)
    except BuildError as error:
        sys.exit(f"images: {error}")
    built = sum(image.built for image in made)
    say(f"{built} of {len(made)} images built in {time.monotonic() - began:.1f} s")
    if arguments.json:
        keys = ("component", "image", "identity", "built")
        print(json.dumps([{key: getattr(image, key) for key in keys} for image in made]))
    else:
        for image in made:
            print(image.image, image.identity)


def _remove(prefix: str, names: list[str], cache: Path) -> None:
    """Remove images and their layers. The base is last: the others are on top of it."""
    chosen = names or [*CHARTS, monitoring.NAME, *COMPONENTS, "base"]
    for image in engine.remove(f"{prefix}/{name}" for name in chosen):
        say(f"removed {image}")
    for name in chosen:
        shutil.rmtree(layers_of(cache, prefix, name), ignore_errors=True)
