"""The command `zablog`: what a person or a script types. Parses, calls the client or the local cluster, prints.

stdout is data, stderr is everything else. Nothing of trio, rich or the client is imported before a command needs it: `zablog
--help` is looked at more often than any other output, and must come at once.
"""


def main() -> None:
    """The entry point."""
    from broker.cli.main import main

    main()
