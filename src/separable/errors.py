"""Every error of the package. In: where, what was given and expected, what to do. Out: an exception that says it."""


class SeparableError(ValueError):
    """Something cannot be done; the message says where, what was given, what was expected, what to do."""

    def __init__(self, where: str, *, given: object, expected: str, remedy: str = "") -> None:
        self.where = where
        self.given = str(given)
        self.expected = expected
        self.remedy = remedy
        message = f"{where}: got {given}; expected {expected}"
        super().__init__(f"{message}. {remedy}" if remedy else message)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.where, self.given, self.expected, self.remedy)


class SpecError(SeparableError):
    """A convolution's shape, rank or geometry contradicts itself."""


class ModelError(SeparableError):
    """A model, a module in it or its example input cannot be handled."""


class DataError(SeparableError):
    """Calibration, training or test data has the wrong form."""


class BudgetError(SeparableError):
    """A budget is not a budget, or is out of reach."""


class PlanError(SeparableError):
    """A plan does not fit the model that it is applied to."""


class FileError(SeparableError):
    """A file cannot be read or written."""


class MissingExtraError(SeparableError, ImportError):
    """An optional dependency is not installed; ``extra`` is the name to install it by."""

    def __init__(self, where: str, *, package: str, extra: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(
            where,
            given=f"no module {package!r}",
            expected=f"the extra {extra!r}",
            remedy=f"Install it with: pip install 'separable[{extra}]'.",
        )

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_missing, (self.where, self.package, self.extra)


class SeparableWarning(UserWarning):
    """Something was done that the caller should know about."""


def _rebuild(kind: type[SeparableError], where: str, given: str, expected: str, remedy: str) -> SeparableError:
    return kind(where, given=given, expected=expected, remedy=remedy)


def _rebuild_missing(where: str, package: str, extra: str) -> MissingExtraError:
    return MissingExtraError(where, package=package, extra=extra)
