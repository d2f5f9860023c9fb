"""What can go wrong, one class for each decision that a person can take.

SteadylensError
├── ConfigError      2  an option, a configuration file or an argument is wrong
├── DataError        3  the images or their labels cannot be used
├── ArtifactError    4  a model artifact is damaged, incomplete or of another version
└── ResourceError    5  memory, disk or a device is missing

Anything else that leaves the program is a bug and exits with 1.
"""


class SteadylensError(Exception):
    """The root: its message says what happened, to which file, and what to do next."""

    exit_code = 1


class ConfigError(SteadylensError):
    """An option, a configuration file or an argument is wrong."""

    exit_code = 2


class DataError(SteadylensError):
    """The images or their labels cannot be used."""

    exit_code = 3


class ArtifactError(SteadylensError):
    """A model artifact is damaged, incomplete or of another version."""

    exit_code = 4


class ResourceError(SteadylensError):
    """Memory, disk or a device is missing."""

    exit_code = 5
