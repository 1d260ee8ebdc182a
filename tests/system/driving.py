"""Real processes on real sockets and disks: a cluster for each test, driven by the command line alone, as a person would."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SECONDS = 120
"""How long any one command may take before the test fails: a hang must not stop the whole suite."""


@dataclass
class Zablog:
    """The command `zablog`, with a state folder of its own."""

    home: Path
    port: int

    def __call__(self, *arguments: str, stdin: bytes = b"", check: bool = True) -> "subprocess.CompletedProcess[bytes]":
        done = subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, env=self.environment, timeout=SECONDS, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"zablog {' '.join(arguments)}: exit {done.returncode}: {done.stderr.decode()}\n{self.logs()}")
        return done

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-P", "-m", "broker.cli", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "XDG_STATE_HOME": str(self.home)}

    def up(self, *arguments: str) -> None:
        self("cluster", "up", "--detach", "--port", str(self.port), *arguments)

    def status(self) -> dict[str, object]:
        shown: dict[str, object] = json.loads(self("cluster", "status", "--json").stdout)
        return shown

    def leader(self) -> str:
        return str(self.status()["leader"])

    def consumed(self, topic: str, *arguments: str) -> list[bytes]:
        return self("consume", topic, "--from", "earliest", "--until", "end", *arguments).stdout.splitlines()

    def folder(self, node: int) -> Path:
        return self.home / "zablog" / "local" / f"node{node}"

    def logs(self) -> str:
        words = []
        for log in sorted((self.home / "zablog").glob("*/node*/server.log")):
            words.append(f"-- {log}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:]))
        return "\n".join(words)
