"""The trio shell round a core: driver, writer thread, applier; `open_node` puts them together."""
