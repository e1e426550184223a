"""The errors this project raises on purpose; the message gives the thing, the value and the limit."""


class DelegateError(Exception):
    """Base of all errors that a user may meet."""


class CompileError(DelegateError):
    """A graph that passed the rules could not be turned into a program."""


class ModelError(DelegateError):
    """A model file or an interpreter's tensors cannot be read."""


class OptionError(DelegateError):
    """An unknown option, or a value that an option does not take."""


class MatmulError(DelegateError, ValueError):
    """Matrices that cannot be multiplied on the NPU, or a product that is closed."""


class RegisterError(DelegateError):
    """A register, field or value that does not exist on the chip."""


class DeviceError(DelegateError):
    """A device is missing or refused a request; ``errno`` is the kernel's, 0 where it did not say so."""

    def __init__(self, message: str, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


class SimulatorError(DeviceError):
    """The simulated silicon would hang, fault or compute garbage; names task, register, value and limit."""
