#!/bin/sh
# What a chart starts: becomes the daemon of SIGUL_ROLE, as the container's main process. A database
# that is missing or empty is made before, and so is the GnuPG home.
set -eu
configuration=/etc/sigul/server.conf
if [ "${SIGUL_ROLE:-server}" != server ]; then
    echo "Error: SIGUL_ROLE is '$SIGUL_ROLE', and this is the server's image; name the image of that role" >&2
    exit 1
fi
# value OPTION: what the configuration has for it; nothing where it has none.
value() { sed -n "s/^$1[[:blank:]]*[:=][[:blank:]]*//p" "$configuration" | tail -n 1; }

home=$(value gnupg-home)
database=$(value database-path)
if [ -n "$home" ] && [ ! -e "$home" ]; then
    mkdir -m 0700 "$home"
fi
if [ -n "$database" ] && [ ! -s "$database" ]; then
    rm -f "$database"
    sigul_server_create_db -c "$configuration"
fi
exec /usr/sbin/sigul_server -c "$configuration" -vv
