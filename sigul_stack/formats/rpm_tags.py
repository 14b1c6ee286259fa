"""The numbers in an RPM package's headers that mean something here (`rpm_head`)."""

from __future__ import annotations

from enum import IntEnum


class EntryType(IntEnum):
    """Types of an entry's data."""

    CHAR = 1
    INT8 = 2
    INT16 = 3
    INT32 = 4
    INT64 = 5
    STRING = 6
    BIN = 7
    STRING_ARRAY = 8
    I18NSTRING = 9


class Region(IntEnum):
    """The tag of a header's region, which tells the two kinds of header apart."""

    SIGNATURE = 62
    MAIN = 63


class SignatureTag(IntEnum):
    """Tags of entries in the signature header."""

    DSA_HEADER = 267  # despite its name, of any algorithm but RSA
    RSA_HEADER = 268
    SHA1_HEADER = 269
    LONG_SIZE = 270
    LONG_ARCHIVE_SIZE = 271
    SHA256_HEADER = 273
    FILE_SIGNATURES = 274
    FILE_SIGNATURE_LENGTH = 275
    OPENPGP = 278
    SIZE = 1000
    PGP = 1002
    MD5 = 1004
    GPG = 1005
    PGP5 = 1006
    PAYLOAD_SIZE = 1007
    RESERVED_SPACE = 1008


class MainTag(IntEnum):
    """Tags of entries in the main header."""

    NAME = 1000
    VERSION = 1001
    RELEASE = 1002
    EPOCH = 1003
    ARCH = 1022
    FILE_DIGESTS = 1035
    SOURCE_RPM = 1044
    SOURCE_PACKAGE = 1106
    PAYLOAD_FORMAT = 1124
    FILE_DIGEST_ALGORITHM = 5011
    PAYLOAD_DIGEST = 5092
    PAYLOAD_DIGEST_ALGORITHM = 5093
    PAYLOAD_DIGEST_ALT = 5097
    FORMAT = 5114
