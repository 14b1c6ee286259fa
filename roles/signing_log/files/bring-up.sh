# Brings the server's log, which nobody has open, up to the copy in /passing/copy.tar.
#
#   complete    appends what it lacks; fails where nothing is missing, and where the copy is not of
#               this log
#   restored    the same after a restore, where the copy may be older, or of another log: says so
#   new-origin  begins another log, whose first leaf names the copy's checkpoint, or where there is
#               no copy that of the log in place
set -eu
log=/var/lib/sigul/signing-log copy=/passing/copy conf=/etc/sigul/server.conf
size() { sigul-stack audit receive "$1" --size; }

umask 077
if [ -f "$copy.tar" ]; then
    mkdir "$copy"
    tar --extract --file "$copy.tar" --directory "$copy" --no-same-owner
fi
case $1 in
    restored)
        if [ "$(cat "$log/key.pub" 2>&1)" != "$(cat "$copy/key.pub")" ]; then
            echo "the copy on the control machine is of another log than the server's, which was" \
                "left as it is: see 'Restoring the log' in docs/runbooks.md"
        elif [ "$(size "$log")" -ge "$(size "$copy")" ]; then
            echo "the log has all leaves of the copy on the control machine"
        else
            exec sigul-stack audit complete --from "$copy" -c "$conf"
        fi
        ;;
    complete) exec sigul-stack audit complete --from "$copy" -c "$conf" ;;
    new-origin)
        if [ -d "$copy" ]; then set -- --previous "$copy/checkpoint"; else set --; fi
        exec sigul-stack audit new-origin "$@" -c "$conf"
        ;;
esac
