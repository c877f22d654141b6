"""The helper programs of the examples: killed, started again, and gone with whoever started them."""

import json
import signal
import socket
import subprocess
import sys
import time

import pytest

from app.saga.definition import parse_definition
from app.saga.yaml12 import load_yaml
from examples.processes import HERE, Server, order_services, reserve

STARTER = """
import json, pathlib, signal, sys
from app.saga.definition import parse_definition
from app.saga.yaml12 import load_yaml
from examples.processes import order_services
with order_services(pathlib.Path(sys.argv[1])) as servers:
    print(json.dumps([server.port for server in servers.values()]), flush=True)
    signal.pause()
"""


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a child cannot ask to die with its parent")
def test_the_services_die_with_a_starter_that_is_killed(tmp_path):
    argv = [sys.executable, "-c", STARTER, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=HERE.parent) as starter:
        ports = json.loads(starter.stdout.readline())
        assert all(accepts(port) for port in ports)
        starter.send_signal(signal.SIGKILL)
    give_up = time.monotonic() + 20
    while any(accepts(port) for port in ports):
        assert time.monotonic() < give_up


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the port is not kept")
def test_a_service_that_is_down_keeps_its_port_and_refuses(tmp_path):
    with order_services(tmp_path) as servers:
        port = servers["payment"].port
        servers["payment"].stop()
        assert not accepts(port)
        with pytest.raises(RuntimeError, match=f"port {port}"):
            reserve(port)
        servers["payment"].start()
        servers["payment"].start()
        assert accepts(port)
    assert not accepts(port)


def test_a_program_that_does_not_start_says_why(tmp_path):
    with Server(HERE / "order/services.py", "florist", data=tmp_path) as server:
        with pytest.raises(RuntimeError, match="florist"):
            server.start()
        assert not accepts(server.port)


@pytest.mark.parametrize("example", ["order", "payment"])
def test_the_definition_of_an_example_is_valid_with_the_services_beside_it(example):
    sagas = HERE / example / "sagas"
    services = load_yaml((sagas / "services.yaml").read_text())
    definition = parse_definition(load_yaml((sagas / f"{example}.yaml").read_text()), services)
    assert definition.name == example
