"""What goes wrong here is told in a sentence, for the person who started us."""


class EmbeddedError(RuntimeError):
    """Why an embedded server cannot do what it should."""


class HouseError(Exception):
    """Why the house cannot stand."""
