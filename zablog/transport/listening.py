"""Where one may listen. Nothing but loopback, unless the configuration says `insecure = true` in so many words."""

import errno
from ipaddress import ip_address

import trio

from zablog.transport.errors import AddressInUse, CannotListen, InsecureAddress


def split_address(address: str) -> tuple[str, int]:
    """HOST:PORT, an IPv6 host in brackets. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"an address is HOST:PORT (an IPv6 host in brackets), not {address!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def open_listeners(address: str, insecure: bool) -> list[trio.SocketListener]:
    """Listen on HOST:PORT, port 0 for any. Raises InsecureAddress, AddressInUse, CannotListen: then nothing is listened on."""
    try:
        host, port = split_address(address)
    except ValueError as error:
        raise CannotListen(str(error)) from None
    try:
        places = {str(place[4][0]).partition("%")[0] for place in await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)}
        open_places = sorted(place for place in places if not ip_address(place).is_loopback)
        if open_places and not insecure:
            where = host if open_places == [host] else f"{host} ({', '.join(open_places)})"
            raise InsecureAddress(
                f"{where} can be reached from other machines, and this protocol neither encrypts nor asks who is there. "
                f"Listen on 127.0.0.1, or set insecure = true if the network is yours alone."
            )
        return await trio.open_tcp_listeners(port, host=host)
    except UnicodeError as error:
        raise CannotListen(f"cannot listen on {address}: the host is no name ({error})") from error
    except OSError as error:
        # trio wraps what each of several sockets said; the cause has the number.
        cause = next((each for each in (error, error.__cause__) if isinstance(each, OSError) and each.errno is not None), error)
        if cause.errno == errno.EADDRINUSE:
            raise AddressInUse(f"{address} is in use: another process listens there. Stop it, or choose another port.") from error
        raise CannotListen(f"cannot listen on {address}: {cause.strerror or cause}") from error
