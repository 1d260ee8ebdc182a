"""The server, on trio: one node of the broadcast with topics on it, and the clients that talk to it.

- `config`: the TOML file.
- `server`, `run`: a node for the length of a block, and as a process.
- `application`: what committed commands do; `connection`: one client; `writes`, `reads`: the requests by family; `clock`: leader time.
"""

from broker.server.config import ServerConfig, load
from broker.server.run import run
from broker.server.server import Server, open_server

__all__ = ["Server", "ServerConfig", "load", "open_server", "run"]
