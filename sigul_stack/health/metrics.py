"""The findings of a health check, as metrics.

A layer that was not looked at this time has no value: whoever warns of a state warns of one that is
missing, too. Keys' names are given away only where they are asked for.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

from ..checks import Check, Report
from ..observe.exposition import Samples
from .steps import Measured


def samples_of(report: Report, measured: Sequence[Measured], *, names: bool = False) -> Samples:
    """The metrics of a report, and of what its checks have `measured`.

    Without `names` there is one value for all keys, that of the first to expire.
    """
    samples = Samples(names=names)
    layers: defaultdict[str, list[Check]] = defaultdict(list)
    for check in report.checks:
        layers[check.layer].append(check)
    for layer, checks in layers.items():
        state = Report(report.component, tuple(checks)).state
        samples.add("sigul_check_state", state, component=report.component, layer=layer)
    samples.add("sigul_check_timestamp_seconds", time.time(), component=report.component)
    keys: dict[str, float] = {}
    for name, value, labels in measured:
        if name == "sigul_key_days_left":
            key = labels["key"] if names else ""
            keys[key] = min(value, keys.get(key, value))
        else:
            samples.add(name, value, **labels)
    for key, days in keys.items():
        samples.add("sigul_key_days_left", days, **({"key": key} if names else {}))
    return samples
