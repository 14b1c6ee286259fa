"""The image `monitoring`: programs of Debian's alone, on top of `base`.

Apart from `components`, so that a change here has no package of another image fetched anew.
"""

from __future__ import annotations

from typing import Final

NAME: Final = "monitoring"
#: Each is one program of a container of its own; prometheus brings promtool, alertmanager amtool.
PACKAGES: Final = ("haproxy", "prometheus", "prometheus-alertmanager", "prometheus-node-exporter")
