"""What can go wrong with the network itself. Trouble with one connection is not an error here: it is retried and logged."""


class TransportError(Exception):
    """The node cannot take part in its ensemble over the network."""


class CannotListen(TransportError):
    """The address cannot be listened on: change it."""


class InsecureAddress(CannotListen):
    """The address is reachable from elsewhere, and nobody said `insecure = true`."""


class AddressInUse(CannotListen):
    """Another process listens on this address: stop it, or choose another port."""


class HandshakeFailed(Exception):
    """This connection will not become a link. `code` is a `Refusal`, or a number the other side made up."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
