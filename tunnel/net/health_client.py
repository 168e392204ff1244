"""
Asking a health listener on this machine, for commands that stand beside a running relay or gateway.

Apart from ``health``, which serves it, so that a command need not import a web server to ask a question.
"""

import http.client
import json
from contextlib import closing
from typing import Final

from sallyport.tunnel.errors import TunnelError
from sallyport.tunnel.limits import limit

_ANSWER_TIMEOUT: Final = limit(
    2.0, "seconds",
    "for a health listener to answer a command: it is on this machine",
)  # fmt: skip


class HealthSilent(TunnelError):
    """
    Nobody who runs on this machine answered.

    Attributes:
        is_somebody_else: Something listens there, and it is no health listener.
        detail: The system's word for it.
    """

    fault = "network"
    retryable = True

    def __init__(self, detail: str, *, is_somebody_else: bool) -> None:
        super().__init__(detail)
        self.detail: Final = detail
        self.is_somebody_else: Final = is_somebody_else

    def __str__(self) -> str:
        return f"no health listener answers: {self.detail}"


def ask_status(host: str, port: int) -> object:
    """
    Fetch /status; blocks for two seconds at the most.

    Returns:
        The JSON value that was answered; what is in it is for the caller to judge.

    Raises:
        HealthSilent: Nobody answers there, or not with JSON.
    """
    with closing(http.client.HTTPConnection(host, port, timeout=_ANSWER_TIMEOUT)) as connection:
        try:
            connection.request("GET", "/status")
            answer: object = json.load(connection.getresponse())
        except OSError as error:
            raise HealthSilent(error.strerror or "no answer in time", is_somebody_else=False) from error
        except (http.client.HTTPException, ValueError) as error:
            raise HealthSilent("something else listens there", is_somebody_else=True) from error
    return answer
