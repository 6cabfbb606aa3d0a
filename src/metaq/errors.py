"""Every exception that metaq raises on purpose."""


class MetaqError(Exception):
    """Base class: whatever metaq refuses, with a sentence saying what to do."""


class ConfigError(MetaqError, ValueError):
    """An option, a configuration or an argument has a value that cannot be used."""


class GoalError(ConfigError):
    """A goal that no training of this model can reach."""


class DataError(MetaqError):
    """A data set or a model input is missing, damaged or of the wrong shape."""


class SolverError(MetaqError):
    """An iterative solver could not reach what was asked of it."""


class NonFiniteError(SolverError, ValueError):
    """Weights or multipliers hold NaN or infinity."""


class FormatError(MetaqError):
    """A file is not what its name says: foreign, damaged, truncated or too new."""


class CodecError(MetaqError):
    """Symbols cannot be coded, or coded bytes do not decode to what was promised."""


class OutputError(MetaqError):
    """A result could not be written; what was there before is untouched."""
