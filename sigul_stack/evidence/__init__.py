"""The signing log: what it holds, how it is kept on disk, and who watches it.

`leaf` is one decision of a server, `evidence` what a reply carries of it. `signing_log` appends on
the server's disk, `log_reader` reads that or a copy, `writer` is the process that appends for all
workers; `witness` is what bridge and clients remember. docs/audit.md says what the log proves.
"""
