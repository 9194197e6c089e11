"""What can go wrong, and what is then known.

PaylabError
├── Definite            it surely did not happen
│   ├── InvalidRequest      INVALID_AMOUNT, BAD_CURRENCY, BAD_ACCOUNT, BAD_NAME, KEY_MISSING
│   ├── KeyReused           KEY_REUSED
│   ├── Unauthenticated     TOKEN_EXPIRED, TOKEN_INVALID
│   ├── PermissionDenied    NOT_OWNER, SCOPE, ROLE
│   ├── NotFound            NOT_FOUND
│   ├── WrongState          WRONG_STATE
│   └── Overloaded          OVERLOADED, LOCKED_OUT: try again after `pushback_s`
├── OutcomeUnknown      OUTCOME_UNKNOWN, or a transport that failed: it may have happened
└── LabError            the laboratory itself was misused, or found something wrong
"""


class PaylabError(Exception):
    """An error with a `reason` from the contract and `definite`: True when it surely did not happen."""

    definite = True

    def __init__(self, reason: str, message: str = "") -> None:
        """Keep the reason; the message is for people."""
        super().__init__(f"{reason}: {message}" if message else reason)
        self.reason = reason
        self.message = message


class Definite(PaylabError):
    """The request was refused; nothing was saved."""


class InvalidRequest(Definite):
    """The request itself is wrong: fix it."""


class KeyReused(Definite):
    """The idempotency key belongs to another request: use a new key."""


class Unauthenticated(Definite):
    """The token is missing, expired or not valid: refresh once, or give up."""


class PermissionDenied(Definite):
    """The caller may not do this: give up."""


class NotFound(Definite):
    """What was asked for does not exist, or not for this caller."""


class WrongState(Definite):
    """The payment is in a state that does not allow this: read the payment."""


class Overloaded(Definite):
    """The server has too much to do: again after `pushback_s` seconds, with the same key."""

    def __init__(self, reason: str = "OVERLOADED", message: str = "", pushback_s: float = 0.0) -> None:
        """Keep the delay that the server asks for."""
        super().__init__(reason, message)
        self.pushback_s = pushback_s


class OutcomeUnknown(PaylabError):
    """It may have happened: ask again with the same key, never with a new one."""

    definite = False

    def __init__(self, reason: str = "OUTCOME_UNKNOWN", message: str = "") -> None:
        """Take OUTCOME_UNKNOWN as the reason unless the transport gave another."""
        super().__init__(reason, message)


class LabError(PaylabError):
    """The laboratory was misused, or one of its checks failed."""


# Which class speaks for a reason. A reason that is not here is a bug in paylab.
ERROR_OF_REASON: dict[str, type[PaylabError]] = {
    "INVALID_AMOUNT": InvalidRequest,
    "BAD_CURRENCY": InvalidRequest,
    "BAD_ACCOUNT": InvalidRequest,
    "BAD_NAME": InvalidRequest,
    "KEY_MISSING": InvalidRequest,
    "KEY_REUSED": KeyReused,
    "TOKEN_EXPIRED": Unauthenticated,
    "TOKEN_INVALID": Unauthenticated,
    "NOT_OWNER": PermissionDenied,
    "SCOPE": PermissionDenied,
    "ROLE": PermissionDenied,
    "NOT_FOUND": NotFound,
    "WRONG_STATE": WrongState,
    "OVERLOADED": Overloaded,
    "LOCKED_OUT": Overloaded,
    "OUTCOME_UNKNOWN": OutcomeUnknown,
}
