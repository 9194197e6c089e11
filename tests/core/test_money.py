"""Money: integer minor units, never a float, written and read without loss."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paylab.core.money import AMOUNT_MINOR_MAX, MINOR_DIGITS, Money, parse_amount, parse_money
from paylab.errors import InvalidRequest

CURRENCIES = st.sampled_from(sorted(MINOR_DIGITS))
AMOUNTS = st.integers(0, AMOUNT_MINOR_MAX)


@given(AMOUNTS, CURRENCIES)
def test_what_is_written_can_be_read(amount_minor: int, currency: str) -> None:
    """Every amount survives being written for people and read again."""
    money = Money(amount_minor, currency)
    assert parse_money(str(money)) == money


@given(AMOUNTS, CURRENCIES)
def test_every_amount_shows_all_its_decimals(amount_minor: int, currency: str) -> None:
    """An amount is written with exactly the decimals of its currency, so columns line up."""
    whole, _, decimals = str(Money(amount_minor, currency)).partition(" ")[0].partition(".")
    assert len(decimals) == MINOR_DIGITS[currency]
    assert int(whole + decimals) == amount_minor


@given(st.integers(), CURRENCIES)
def test_negation_is_its_own_inverse(amount_minor: int, currency: str) -> None:
    """The same amount the other way, and back."""
    money = Money(amount_minor, currency)
    back = -money
    assert -back == money
    assert (-money).amount_minor == -amount_minor


@given(st.one_of(st.floats(), st.booleans(), st.decimals(), st.text(), st.none(), st.fractions()))
def test_only_integers_are_amounts(amount: Any) -> None:
    """Floats are refused, whole ones too, and so are booleans, which Python counts among the integers."""
    with pytest.raises(InvalidRequest) as caught:
        Money(amount, "EUR")
    assert caught.value.reason == "INVALID_AMOUNT"


@given(st.one_of(st.floats(), st.integers(), st.booleans(), st.none(), st.binary()))
def test_money_is_read_from_text_only(value: Any) -> None:
    """A number where text such as "12.50 EUR" belongs is refused, not guessed at."""
    with pytest.raises(InvalidRequest) as caught:
        parse_money(value)
    assert caught.value.reason == "INVALID_AMOUNT"


@pytest.mark.parametrize("currency", ["", "eur", "XXX", "EURO", "BTC", " EUR"])
def test_unknown_currencies_are_refused(currency: str) -> None:
    """A currency outside the table is refused, and so is a known one in small letters."""
    makers: list[Callable[[], Money]] = [lambda: Money(1, currency), lambda: parse_amount("1", currency)]
    for make in makers:
        with pytest.raises(InvalidRequest) as caught:
            make()
        assert caught.value.reason == "BAD_CURRENCY"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1.00",
        "+1.00",
        "1,00",
        "1.",
        ".5",
        "1e3",
        "NaN",
        "inf",
        " 1",
        "1 ",
        "0x10",
        "1_000",
        "١٢",
        "1.0.0",
    ],
)
def test_malformed_amounts_are_refused(text: str) -> None:
    """Signs, commas, exponents, spaces and foreign digits are not amounts."""
    with pytest.raises(InvalidRequest) as caught:
        parse_amount(text, "EUR")
    assert caught.value.reason == "INVALID_AMOUNT"


@pytest.mark.parametrize(("text", "currency"), [("1.005", "EUR"), ("1.0", "JPY"), ("0.0001", "KWD")])
def test_more_decimals_than_the_currency_has_are_refused(text: str, currency: str) -> None:
    """Nothing is rounded."""
    with pytest.raises(InvalidRequest, match="more decimals"):
        parse_amount(text, currency)


@pytest.mark.parametrize("digits", [13, 400, 5000])
def test_amounts_beyond_the_limit_are_refused(digits: int) -> None:
    """However long the text is, it is refused as an amount and not by Python's own limit on digits."""
    with pytest.raises(InvalidRequest) as caught:
        parse_amount("9" * digits, "JPY")
    assert caught.value.reason == "INVALID_AMOUNT"
    assert len(str(caught.value)) < 200


def test_leading_zeros_do_not_count() -> None:
    """An amount is a number: zeros in front of it change nothing."""
    assert parse_amount("0012.5", "EUR") == Money(1250, "EUR")


@given(st.text())
def test_no_text_crashes_the_reader(text: str) -> None:
    """Whatever is written, the answer is money or an InvalidRequest."""
    try:
        money = parse_money(text)
    except InvalidRequest:
        return
    assert 0 <= money.amount_minor <= AMOUNT_MINOR_MAX
