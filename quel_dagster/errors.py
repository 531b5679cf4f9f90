"""One tree of exceptions; every error that this project raises on purpose is a `QuelError`.

The first line of a class's docstring is its default message. A message is one readable line that names
the thing and the remedy; it may be shown to an operator or stored in `error_message`, so it never holds a
secret, a URL with credentials, or raw bytes.
"""

from __future__ import annotations

from quel_dagster.redaction import redact


class QuelError(Exception):
    """Something in Quel went wrong."""

    def __init__(self, message: str | None = None) -> None:
        doc = (type(self).__doc__ or "").strip().splitlines()
        super().__init__(redact(" ".join((message or doc[0]).split())))


class SettingsError(QuelError):
    """A setting is missing or wrong."""


# --- what a job asks for -----------------------------------------------------------------------------


class JobInputError(QuelError):
    """`job_input_data` cannot be used; the message opens with the path of the field (domain.md §4)."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{path}: {problem}")


class JobNotFoundError(QuelError):
    """No row of quel_production_jobs has this id."""


class PayerError(QuelError):
    """Nobody can be charged for this job."""


class InsufficientCreditsError(PayerError):
    """The payer's balance does not cover one picture; add credits and run the job again."""


# --- who may work on a job ---------------------------------------------------------------------------


class LeaseHeldError(QuelError):
    """Another live run is working on this job."""


class LeaseLostError(QuelError):
    """This run no longer holds the lease of its job, so it writes nothing more."""


class JobCancelledError(QuelError):
    """The user cancelled this job."""


class HandedOverError(QuelError):
    """This worker is stopping; another one goes on with the job."""


class RunTerminatedError(QuelError):
    """An operator stopped this run."""


# --- pictures and references -------------------------------------------------------------------------


class ReferenceUnavailableError(QuelError):
    """A reference picture cannot be had."""


class PictureError(QuelError):
    """These bytes are not a picture that can be used."""


# --- object store ------------------------------------------------------------------------------------


class StorageError(QuelError):
    """The object store refused or failed."""

    #: whether the same call may succeed later
    transient: bool = False


class StorageUnavailableError(StorageError):
    """The object store did not answer, or answered that it is busy; trying again may help."""

    transient = True


class ObjectNotFoundError(StorageError):
    """No object is stored under this key."""


class StorageKeyError(StorageError):
    """This storage key points outside the store and is refused."""


# --- Gemini ------------------------------------------------------------------------------------------


class GeminiError(QuelError):
    """Gemini gave no picture."""

    #: whether the same request may succeed later
    transient: bool = False
    #: seconds that the server asked to wait before the next call, when it said so
    retry_after: float | None = None


class GeminiRefusedError(GeminiError):
    """Gemini declined to make this picture (safety block, refusal, or words instead of a picture)."""


class GeminiUnavailableError(GeminiError):
    """Gemini could not be reached or had an internal error."""

    transient = True


class GeminiRateLimitedError(GeminiError):
    """Gemini's quota is used up for the moment."""

    transient = True

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class GeminiTimeoutError(GeminiError):
    """Gemini did not finish its answer before the deadline."""

    transient = True


class GeminiBadAnswerError(GeminiError):
    """Gemini's answer was broken: not JSON, cut short, or an image that does not decode."""

    transient = True


class GeminiRejectedError(GeminiError):
    """Gemini refuses every request of this installation (bad key, no permission, unknown model)."""


# --- the services of one home --------------------------------------------------------------------------


class ServiceError(QuelError):
    """A service did not start, or ended by itself."""


class HomeBusyError(QuelError):
    """Another `quel up` is using this home."""


class NotRunningError(QuelError):
    """No `quel up` is running on this home."""
