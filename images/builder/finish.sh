#!/bin/sh
# Finishes a Debian root from inside, after its packages were installed.
#
#   sh -s -- [GROUP-OF-PACKAGES…] <finish.sh
#
# Each group of packages is removed in one step, although others may depend on them.
set -eu

for group; do
    present=
    for package in $group; do
        if dpkg-query -W "$package" >/dev/null 2>&1; then
            present="$present $package"
        fi
    done
    if [ -n "$present" ]; then
        # shellcheck disable=SC2086 # a list
        dpkg --purge --force-remove-essential --force-remove-protected --force-depends $present
    fi
done

# Nobody becomes another user in here.
find / -xdev -type f -perm /6000 -delete

echo 'sigul:x:1000:1000:Sigul:/var/lib/sigul:/usr/sbin/nologin' >>/etc/passwd
echo 'sigul:x:1000:' >>/etc/group
install -d -m 755 /etc/sigul /etc/sigul/nss /etc/sigul/secrets /var/lib/sigul /run/sigul
chown 1000:1000 /var/lib/sigul /run/sigul
