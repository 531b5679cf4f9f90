"""The exceptions of this project; every error that it raises on purpose is a `QuelError`.

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

    @classmethod
    def of(cls, job_id: object) -> JobNotFoundError:
        return cls(f"Job {job_id} is not in quel_production_jobs; was it deleted?")


class PayerError(QuelError):
    """No payer can be charged for this job."""


class InsufficientCreditsError(PayerError):
    """The payer's balance does not cover one picture; add credits and run the job again."""


class JobPoisonedError(QuelError):
    """This job ended its worker process repeatedly without making another picture."""


# --- the database --------------------------------------------------------------------------------------


class SchemaError(QuelError):
    """Schema quel_dagster cannot be used by this version."""


class DatabaseRefusedError(QuelError):
    """PostgreSQL refused to write a row."""


class RowShapeError(QuelError):
    """A row of the database has other columns than this version reads."""


# --- leases and stops --------------------------------------------------------------------------------


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
    """A reference picture cannot be fetched."""


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


class StorageRefusedError(StorageError):
    """The object store refuses what this installation asks of it; every other picture would be refused as well."""


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
    #: how often the same request is sent again after this error; None: as GEMINI_ATTEMPTS allows
    ask_again: int | None = None


class GeminiRefusedError(GeminiError):
    """Gemini declined to make this picture (a safety block, or a request that it cannot use)."""

    ask_again = 0


class GeminiNoPictureError(GeminiError):
    """Gemini answered without a picture, or with words instead of one."""

    transient = True
    ask_again = 2


class GeminiUnavailableError(GeminiError):
    """Gemini could not be reached or had an internal error."""

    transient = True

    def __init__(self, message: str | None = None, *, everybody: bool = True) -> None:
        #: whether other requests meet the same now (overload, no connection), not just this one (an internal error)
        self.everybody = everybody
        super().__init__(message)


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
    """Gemini refuses every request of this installation (bad key, no permission)."""

    ask_again = 0


class GeminiModelError(GeminiRejectedError):
    """Gemini does not have this model, or the model does not take this kind of request."""


class GeminiQuotaSpentError(GeminiRejectedError):
    """Gemini's quota is spent, and waiting does not bring it back."""


# --- the services of one home --------------------------------------------------------------------------


class ServiceError(QuelError):
    """A service did not start, or ended by itself."""


class HomeBusyError(QuelError):
    """Another `quel up` is using this home."""


class NotRunningError(QuelError):
    """No `quel up` is running on this home."""
