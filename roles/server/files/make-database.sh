# Makes the server's database, with the administrator $1 whose password is on standard input. Another
# name until all is in it: what was cut off starts again with nothing.
set -e
cd /var/lib/sigul
printf '[database]\ndatabase-path: /var/lib/sigul/new.sqlite\n' >/tmp/setup.conf
rm -f new.sqlite
sigul_server_create_db -c /tmp/setup.conf </dev/null
sigul_server_add_admin -c /tmp/setup.conf --batch -n "$1"
mv -n new.sqlite server.sqlite
