"""The network, on trio: listening, dialling, handshakes, links. What comes out is messages on numbered links; nothing is decided here.

- `network`: `open_network`, the one thing the node needs: `send`, `room`, `drop`, and callbacks for what happens.
- `link`: an established connection to a peer: one reader, one writer, a bounded outbox with a lane for what may overtake.
- `greeting`: the handshake, from both ends. `listening`: where one may listen. `unix`: the short way on one machine.
- `ends`: bytes in and out of a stream.

Bytes from elsewhere close the connection they came on and harm nothing else.
"""
