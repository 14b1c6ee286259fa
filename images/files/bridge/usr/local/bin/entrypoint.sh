#!/bin/sh
# What a chart starts: becomes the daemon of SIGUL_ROLE, as the container's main process.
set -eu
if [ "${SIGUL_ROLE:-bridge}" != bridge ]; then
    echo "Error: SIGUL_ROLE is '$SIGUL_ROLE', and this is the bridge's image; name the image of that role" >&2
    exit 1
fi
exec /usr/sbin/sigul_bridge -c /etc/sigul/bridge.conf -vv
