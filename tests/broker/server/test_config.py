"""A server's configuration file: what it may say, and how it is told that it may not."""

from pathlib import Path

import pytest

from broker.errors import ConfigError
from broker.server.config import ServerConfig, load


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "node.toml"
    file.write_text(text)
    return file


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
        directory = "data"
        listen = "10.0.0.1:7401"
        insecure = true
        [peers]
        2 = "10.0.0.2:7401"
        [pace]
        lease = 1.5
        [limits]
        connections = 10
        """,
    )

    config = load(file)

    assert config.directory == tmp_path / "data"
    assert (config.listen, config.insecure, config.peers) == ("10.0.0.1:7401", True, {2: "10.0.0.2:7401"})
    assert (config.pace.lease, config.pace.tick, config.limits.connections) == (1.5, 0.01, 10)


def test_a_directory_is_enough(tmp_path: Path) -> None:
    assert load(written(tmp_path, 'directory = "/srv/data"')) == ServerConfig(Path("/srv/data"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "directory is missing"),
        ('directory = "d"\nlisten_on = "x"', "unknown key listen_on; allowed here: directory, cluster, node, listen"),
        ('directory = "d"\n[pace]\nspeed = 1', "unknown key pace.speed; allowed here: pace.tick"),
        ('directory = "d"\nlisten = "7401"', "listen = '7401': must be \"HOST:PORT\""),
        ('directory = "d"\ninsecure = "yes"', "insecure = 'yes': must be true or false"),
        ('directory = "d"\n[peers]\n0 = "a:1"', "peers.0: must be a node id"),
        ('directory = "d"\n[pace]\ntick = 5', "pace.tick = 5: must be a number from 0.001 to 1"),
        ('directory = "d"\n[pace]\nlease = 0.02', "must grow in this order"),
        ("directory = ", "not TOML"),
        ("directory = 7", "directory = 7: must be a string"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path: Path, text: str, words: str) -> None:
    file = written(tmp_path, text)

    with pytest.raises(ConfigError) as caught:
        load(file)

    assert words in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.toml.*No such file"):
        load(tmp_path / "nothing.toml")
