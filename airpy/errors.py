"""The exceptions airpy raises for what lies outside the caller's code: files, formats, templates."""


class AirpyError(Exception):
    """Base of all of them."""


class FormatError(AirpyError, ValueError):
    """A file says something that cannot be true; the message names the key and the number."""


class UnsupportedError(AirpyError):
    """A valid file needs something airpy does not have; the message names it and what there is."""


class TemplateError(AirpyError, ValueError):
    """A chat template is malformed, refuses the messages, or exceeds its bounds."""
