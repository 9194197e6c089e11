"""Money as integer minor units with an ISO 4217 code. Floats are refused."""

import re
from dataclasses import dataclass
from decimal import Decimal

from paylab.errors import InvalidRequest

# Decimals of the minor unit, ISO 4217:2015 table A.1, for the currencies that paylab knows.
MINOR_DIGITS = {
    "AUD": 2, "BHD": 3, "BRL": 2, "CAD": 2, "CHF": 2, "CLP": 0, "CNY": 2, "CZK": 2, "DKK": 2, "EUR": 2,
    "GBP": 2, "HUF": 2, "ILS": 2, "INR": 2, "ISK": 0, "JOD": 3, "JPY": 0, "KRW": 0, "KWD": 3, "MXN": 2,
    "NOK": 2, "NZD": 2, "OMR": 3, "PLN": 2, "RON": 2, "SEK": 2, "SGD": 2, "THB": 2, "TND": 3, "TRY": 2,
    "UAH": 2, "USD": 2, "VND": 0, "ZAR": 2,
}  # fmt: skip
# Fits a signed 64-bit integer with room to add a million of them.
AMOUNT_MINOR_MAX = 10**12
# Longer text is no amount, and Python itself would refuse to read a number of thousands of digits.
AMOUNT_LENGTH_MAX = 40

_AMOUNT = re.compile(r"[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Money:
    """`amount_minor` integer minor units of `currency`; 12.50 EUR is `Money(1250, "EUR")`."""

    amount_minor: int
    currency: str

    def __post_init__(self) -> None:
        """Refuse floats (and booleans) and unknown currencies."""
        if type(self.amount_minor) is not int:
            raise InvalidRequest("INVALID_AMOUNT", f"{self.amount_minor!r} is not an integer of minor units")
        if self.currency not in MINOR_DIGITS:
            raise InvalidRequest("BAD_CURRENCY", f"{self.currency!r} is not a currency that paylab knows")

    def __str__(self) -> str:
        """Write it as people do: `12.50 EUR`."""
        digits = MINOR_DIGITS[self.currency]
        return f"{Decimal(self.amount_minor).scaleb(-digits):.{digits}f} {self.currency}"

    def __repr__(self) -> str:
        """Short, for dictionaries of balances."""
        return f"<{self}>"

    def __neg__(self) -> "Money":
        """The same amount the other way."""
        return Money(-self.amount_minor, self.currency)


def parse_amount(text: str, currency: str) -> Money:
    """Read a decimal such as `12.50`; more decimals than the currency has are refused.

    Raises InvalidRequest: BAD_CURRENCY, or INVALID_AMOUNT when it is malformed, signed or too large.
    """
    digits = MINOR_DIGITS.get(currency)
    if digits is None:
        raise InvalidRequest("BAD_CURRENCY", f"{currency!r} is not a currency that paylab knows")
    if len(text) > AMOUNT_LENGTH_MAX:
        raise InvalidRequest("INVALID_AMOUNT", f"an amount has at most {AMOUNT_LENGTH_MAX} characters")
    if not _AMOUNT.fullmatch(text):
        raise InvalidRequest("INVALID_AMOUNT", f"{text!r} is not an amount such as 12.50")
    whole, _, decimals = text.partition(".")
    if len(decimals) > digits:
        raise InvalidRequest("INVALID_AMOUNT", f"{text!r} has more decimals than {currency} has ({digits})")
    amount_minor = int(whole + decimals.ljust(digits, "0"))
    if amount_minor > AMOUNT_MINOR_MAX:
        raise InvalidRequest("INVALID_AMOUNT", f"{text!r} {currency} is more than paylab moves at once")
    return Money(amount_minor, currency)


def parse_money(text: str) -> Money:
    """Read `12.50 EUR`. Raises InvalidRequest when it does not read like that."""
    if not isinstance(text, str):
        raise InvalidRequest("INVALID_AMOUNT", f"write money as text such as '12.50 EUR', not {text!r}")
    amount, _, currency = text.strip().partition(" ")
    return parse_amount(amount, currency.strip())
