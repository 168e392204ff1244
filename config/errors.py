"""
The errors of ``sallyport.config``.

    ConfigError     the operator's fault; the same file fails the same way again
"""


class ConfigError(Exception):
    """
    A configuration file cannot be used.

    Args:
        file: the file as the operator named it.
        line: line in the file, from 1; 0 when the file as a whole is meant.
        key: dotted key, such as ``servers.wiki.url``; empty when no key is to blame.
        message: what is wrong with it.
        hint: what to do about it; may be empty.
    """

    def __init__(self, file: str, line: int, key: str, message: str, hint: str = "") -> None:
        super().__init__(file, line, key, message, hint)
        self.file = file
        self.line = line
        self.key = key
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"
