"""
The grammar of HTTP/1.1 messages as regular expressions over raw bytes (RFC 9112, RFC 9110 §5).

Every permission to be lenient is left out: no bare CR or LF, no folded fields, no empty line in front, one
space where the grammar says one. Each expression is possessive (``++``, ``*+``), so matching takes time
proportional to the input, whatever that is.
"""

import re

Headers = list[tuple[bytes, bytes]]

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*+"
_FIELDS = rb"(?:" + _TOKEN + rb":" + _VALUE + rb"\r\n)*+\r\n"
# Visible ASCII without "#" (a fragment is never sent) and "\" (some servers read it as "/").
_TARGET = rb"[!-\x22$-\x5b\x5d-~]++"

# A whole head. Groups: method, target, minor version; minor version, status, reason or None.
REQUEST_SHAPE = re.compile(rb"(" + _TOKEN + rb") (" + _TARGET + rb") HTTP/1\.([01])\r\n" + _FIELDS)
RESPONSE_SHAPE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: (" + _VALUE + rb"))?\r\n" + _FIELDS)

FIELD_LINE = re.compile(_TOKEN + rb":" + _VALUE + rb"\r\n")
# What a field line, or the empty line behind the last one, may look like as far as it has come.
FIELD_LINE_BEGINNING = re.compile(rb"\r|(?:" + _TOKEN + rb"(?::" + _VALUE + rb"\r?)?)?")

TOKEN = re.compile(_TOKEN)
TARGET = re.compile(_TARGET)
