"""Training: dictionaries and detectors, as commands on files."""
