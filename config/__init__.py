"""
What the operator writes: the configuration files, read strictly.

* ``errors``    the one error, with file, line and key
* ``document``  text to plain values that remember their lines; pure
* ``fields``    the kinds of value a key may have: addresses, durations, pins, URLs; pure
* ``gateway``, ``relay``  the models
* ``loader``    files to models, every failure told as file, line, key and remedy
* ``logs``      structlog, set up from the ``log:`` section
* ``samples/``  files to start from, in pairs (minimal, full), each read in a test

The package imports no other package of ours.
"""
