"""localstripe, a Stripe that lives on this machine: `python psp_server.py --port 9011 --data DIR`.

Its own command listens on every interface and keeps its state in /tmp/localstripe.pickle, where anybody may
put a pickle that runs code. So its application is served here: on loopback, with the state in DIR.
"""

import argparse
import pickle
from pathlib import Path

from aiohttp import web
from localstripe.resources import Store, store
from localstripe.server import app


def keep_state_in(path: Path) -> None:
    """Has localstripe write its whole state there after every change, and reads what is there."""

    def dump_to_disk(self: Store) -> None:
        unfinished = path.with_suffix(".new")
        unfinished.write_bytes(pickle.dumps(dict(self)))  # a Store would dump itself at each step of being read
        unfinished.replace(path)  # a kill in the middle of writing leaves the old state

    if path.exists():
        store.update(pickle.loads(path.read_bytes()))
    Store.dump_to_disk = dump_to_disk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.data.mkdir(parents=True, exist_ok=True)

    keep_state_in(arguments.data / "localstripe.pickle")
    web.run_app(app, host="127.0.0.1", port=arguments.port, print=None, access_log=None, shutdown_timeout=1)


if __name__ == "__main__":
    main()
