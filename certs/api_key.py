"""
API keys: how one is written, and what of it may be kept.

    sp_ + 52 characters of lower-case base32        256 random bits

The holder of a caller certificate proves that he has its key and never sends it; an API key *is* sent, so
whoever reads it once can use it. It is therefore a value of its own that shows itself to nobody by accident:
its ``repr`` is masked, and what is stored is its SHA-256 (it is random, so a slow hash
would slow only the gateway). Identity §5.

Both ends need this file: the gateway makes and recognises keys, the connector sends one.
"""

import hashlib
import re
from base64 import b32encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from sallyport.certs.errors import FileRefused, NameRefused
from sallyport.certs.storage import read_private

API_KEY_PREFIX: Final = b"sp_"
API_KEY_BYTES: Final = 32

_KEY = re.compile(rb"sp_[a-z2-7]{52}")
# A whole key in any disguise: in capitals, between quotes, with anything in front or behind. Not in both
# cases mixed: the long random tokens of other systems would then be taken for keys now and then.
_KEY_INSIDE = re.compile(rb"[sS][pP]_(?:[a-z2-7]{52}|[A-Z2-7]{52})")
# Nearly all of a key, the prefix left out or not.
_LIKE_A_KEY = re.compile(r"[a-z2-7]{50}", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """
    One API key.

    ``text`` is the whole of it, as it is sent. It belongs into a header and nowhere else.
    """

    text: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not _KEY.fullmatch(self.text):
            # Not quoted: what is nearly a key is a key with a slip in it.
            raise NameRefused("API key", "sp_…", "is not sp_ and 52 characters of a-z and 2-7")

    @classmethod
    def of_random(cls, random: bytes) -> Self:
        """
        Make a key.

        Args:
            random: 32 bytes of ``secrets.token_bytes``, used for nothing else.
        """
        if len(random) != API_KEY_BYTES:
            raise AssertionError(f"a key is made of {API_KEY_BYTES} bytes, and these are {len(random)}")
        return cls(API_KEY_PREFIX + b32encode(random).rstrip(b"=").lower())

    @classmethod
    def load(cls, path: Path) -> Self:
        """
        Read a key from a file that nobody else can read; white space around it is ignored.

        Raises:
            FileRefused: if the file is wider than 0600, cannot be read, or holds no key.
        """
        text = read_private(path, holding="an API key").strip()
        try:
            return cls(text)
        except NameRefused as error:
            raise FileRefused(
                path,
                "holds no API key: one is sp_ and 52 characters of a-z and 2-7, alone in the file",
                "copy it again, whole",
            ) from error

    @property
    def digest(self) -> bytes:
        """
        The SHA-256 of the key as it is written, 32 bytes: all that a gateway keeps of it.
        """
        return hashlib.sha256(self.text).digest()


def holds_api_key(value: bytes) -> bool:
    """
    Say whether a whole key stands anywhere in some bytes, in capitals or not and between whatever signs.

    A key in another encoding, such as base64, is not seen.
    """
    # The first look is for speed: most requests hold nothing like it, and it is twenty times as fast.
    return b"sp_" in value.lower() and _KEY_INSIDE.search(value) is not None


def looks_like_api_key(text: str) -> bool:
    """
    Say whether a text that was meant as something else, such as a name, may be a key: it must not be shown.
    """
    return _LIKE_A_KEY.search(text) is not None
