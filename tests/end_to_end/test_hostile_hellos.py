"""
Hostile ClientHellos at a real relay: each is answered by its alert and an orderly end, and nothing else.
"""

import socket

import anyio
import anyio.to_thread
import pytest

from sallyport.tunnel.alerts import Alert
from tests.harness.mcp_wire import ModernClient, result_text
from tests.harness.plain_socket import alert_record, open_and_send, talk
from tests.harness.product import DOMAIN, Product, Tunnel
from tests.harness.stage import Stage
from tests.hostile.hellos import Fate, HostileHello, client_hello, hostile_hellos

pytestmark = pytest.mark.anyio

_PLACEHOLDER = f"{'a' * 32}.{DOMAIN}"
_REFUSED = [case.name for case in hostile_hellos(_PLACEHOLDER) if case.fate is Fate.REFUSED]


@pytest.mark.parametrize("name", _REFUSED)
async def test_a_hostile_hello_gets_its_alert(name: str, product: Product, tunnel: Tunnel) -> None:
    """The answer is one fatal alert and the end of the connection, without a reset that could overtake it."""
    hostile = next(case for case in hostile_hellos(tunnel.host()) if case.name == name)
    assert hostile.alert is not None, "those that are refused have an alert"
    with anyio.fail_after(10):
        answer = await talk(product.relay_port, hostile.data)
    assert answer == alert_record(hostile.alert)


async def test_hellos_that_never_become_whole_end_at_the_deadline(product: Product, tunnel: Tunnel) -> None:
    """Whoever withholds the rest is told handshake_failure, all at once and not one after the other."""
    waiting = [case for case in hostile_hellos(tunnel.host()) if case.fate is Fate.WAITS]
    answers: dict[str, bytes] = {}

    async def wait(case: HostileHello) -> None:
        answers[case.name] = await talk(product.relay_port, case.data)

    with anyio.fail_after(15):
        async with anyio.create_task_group() as tasks:
            for case in waiting:
                tasks.start_soon(wait, case)
    assert answers == {case.name: alert_record(Alert.HANDSHAKE_FAILURE) for case in waiting}


async def test_an_unknown_tunnel_and_an_absent_gateway_have_their_own_alerts(product: Product) -> None:
    """112 for a label that nobody registered, 80 for a tunnel whose gateway is away."""
    lonely = product.make_tunnel("lonely", {"tickets": "http://127.0.0.1:9/mcp"})
    with anyio.fail_after(10):
        unknown = await talk(product.relay_port, client_hello(f"tickets.{'b' * 32}.{DOMAIN}"))
        absent = await talk(product.relay_port, client_hello(lonely.host("tickets")))
    assert unknown == alert_record(Alert.UNRECOGNIZED_NAME)
    assert absent == alert_record(Alert.INTERNAL_ERROR)


async def test_stalled_and_half_closed_hellos_do_not_stop_a_call(stage: Stage) -> None:
    """With a crowd of them open a call is answered, and all of them are ended by the relay."""
    hello = client_hello(stage.tunnel.host())
    port = stage.product.relay_port
    with anyio.fail_after(30):
        crowd = [open_and_send(port, hello[: len(hello) // 2]) for _ in range(60)]
        for half_closed in crowd[::3]:
            half_closed.shutdown(socket.SHUT_WR)
        answer = await ModernClient(stage.connector.endpoint()).call("probe_echo", text="through the crowd")
        assert result_text(answer) == "through the crowd"
        for connection in crowd:
            with connection:
                await anyio.to_thread.run_sync(_read_to_end, connection)


def _read_to_end(connection: socket.socket) -> None:
    connection.settimeout(20)
    while connection.recv(100):
        pass
