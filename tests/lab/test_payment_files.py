"""Files of payments and accounts: what is read, and the one line that each kind of wrong input gets."""

import csv
import io
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paylab.core.money import MINOR_DIGITS, Money
from paylab.errors import LabError
from paylab.lab.payment_files import (
    AccountRow,
    BadInput,
    PaymentOrder,
    read_accounts,
    read_job,
    read_payments,
)

HEADER = "key,payer,payee,amount,currency\n"
GOOD = "k1,alpine/ann,boreal/bob,12.50,EUR\n"
ACCOUNTS_HEADER = "account,opening_balance,currency,status\n"


def write(folder: Path, content: str | bytes, name: str = "payments.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def row(
    key: str = "k2", payer: str = "alpine/ann", payee: str = "boreal/bob", money: str = "1.00,EUR"
) -> str:
    return f"{HEADER}{GOOD}{key},{payer},{payee},{money}\n"


BAD_PAYMENTS = {
    "malformed amount": (row(money="ten,EUR"), "row 3, column amount: 'ten' is not an amount such as 12.50"),
    "empty amount": (row(money=",EUR"), "row 3, column amount: '' is not an amount such as 12.50"),
    "padded amount": (row(money=" 1.00,EUR"), "row 3, column amount: ' 1.00' is not an amount such as 12.50"),
    "exponent": (row(money="1e3,EUR"), "row 3, column amount: '1e3' is not an amount such as 12.50"),
    "not finite": (row(money="NaN,EUR"), "row 3, column amount: 'NaN' is not an amount such as 12.50"),
    "other digits": (
        row(money="\u0661,EUR"),
        "row 3, column amount: '\u0661' is not an amount such as 12.50",
    ),
    "decimal comma": (
        row(money='"1,00",EUR'),
        "row 3, column amount: '1,00' is not an amount such as 12.50",
    ),
    "negative amount": (
        row(money="-5.00,EUR"),
        "row 3, column amount: '-5.00' is not an amount such as 12.50",
    ),
    "zero amount": (row(money="0.00,EUR"), "row 3, column amount: '0.00' is nothing to pay"),
    "cents of cents": (
        row(money="1.005,EUR"),
        "row 3, column amount: '1.005' has more decimals than EUR has (2)",
    ),
    "cents of yen": (row(money="1.0,JPY"), "row 3, column amount: '1.0' has more decimals than JPY has (0)"),
    "huge amount": (
        row(money="99999999999999,EUR"),
        "row 3, column amount: '99999999999999' EUR is more than paylab moves at once",
    ),
    "endless amount": (
        row(money=f"{'9' * 5000},EUR"),
        f"row 3, column amount: '{'9' * 40}…' is too long for an amount",
    ),
    "unknown currency": (
        row(money="1.00,XYZ"),
        "row 3, column currency: 'XYZ' is not a currency that paylab knows",
    ),
    "lower-case currency": (
        row(money="1.00,eur"),
        "row 3, column currency: 'eur' is not a currency that paylab knows",
    ),
    "no bank": (row(payer="ann"), "row 3, column payer: 'ann' is not an account such as alpine/alice"),
    "empty payee": (row(payee=""), "row 3, column payee: '' is not an account such as alpine/alice"),
    "empty bank": (row(payee="/bob"), "row 3, column payee: '/bob' is not an account such as alpine/alice"),
    "two slashes": (
        row(payee="a/b/c"),
        "row 3, column payee: 'a/b/c' is not an account such as alpine/alice",
    ),
    "way out": (row(payee="../bob"), "row 3, column payee: '../bob' is not an account such as alpine/alice"),
    "space in name": (
        row(payee="a/b c"),
        "row 3, column payee: 'a/b c' is not an account such as alpine/alice",
    ),
    "line in name": (
        row(payee='"a/b\n"'),
        "row 3, column payee: 'a/b\\n' is not an account such as alpine/alice",
    ),
    "long name": (
        row(payee=f"a/{'b' * 65}"),
        f"row 3, column payee: 'a/{'b' * 38}…' is not an account such as alpine/alice",
    ),
    "node as bank": (
        row(payee="gateway/bob"),
        "row 3, column payee: a bank cannot be called gateway, as a node is",
    ),
    "numbered node as bank": (
        row(payee="Auth-2/bob"),
        "row 3, column payee: a bank cannot be called Auth-2, as a node is",
    ),
    "server as bank": (
        row(payee="alpine-1/bob"),
        "row 3, column payee: a bank cannot be called alpine-1, as a server of alpine is",
    ),
    "two cases of a bank": (
        row(payer="Alpine/ann"),
        "row 3, column payer: the bank Alpine differs only in case from alpine",
    ),
    "pays itself": (row(payee="alpine/ann"), "row 3, column payee: alpine/ann would pay itself"),
    "empty key": (row(key=""), "row 3, column key: a payment needs a key"),
    "blank key": (row(key="  "), "row 3, column key: a payment needs a key"),
    "long key": (
        row(key="k" * 256),
        "row 3, column key: 256 characters are too many, a key has at most 255",
    ),
    "reused key": (row(key="k1"), "row 3, column key: 'k1' is the key of another payment, in row 2"),
    "missing column": ("key,payer,payee,currency\n", "row 1, column amount: the column is missing"),
    "missing header": (GOOD, "row 1, column key: the column is missing"),
    "other separator": (HEADER.replace(",", ";"), "row 1, column key: the column is missing"),
    "column twice": (
        "key,payer,payee,amount,amount,currency\n",
        "row 1, column 5: the header has 'amount' twice",
    ),
    "short row": (
        f"{HEADER}k1,alpine/ann,boreal/bob\n",
        "row 2, column amount: the row has 3 cells, the header 5",
    ),
    "long row": (f"{HEADER}{GOOD[:-1]},x\n", "row 2, column 6: the row has 6 cells, the header 5"),
    "empty": ("", "row 1, column key: the file is empty; it needs key,payer,payee,amount,currency"),
    "byte order mark only": (
        b"\xef\xbb\xbf",
        "row 1, column key: the file is empty; it needs key,payer,payee,amount,currency",
    ),
    "blank lines only": (
        "\n\r\n",
        "row 1, column key: the file is empty; it needs key,payer,payee,amount,currency",
    ),
    "header only": (HEADER, "row 2, column key: there is a header and nothing else"),
    "header after a blank line": ("\n" + HEADER, "row 2, column key: there is a header and nothing else"),
    "not UTF-8": (
        HEADER.encode() + b"k1,alpine/ann,boreal/b\xf6b,1.00,EUR\n",
        "row 2, column payee: this is not text in UTF-8",
    ),
    "not UTF-8 in an ignored column": (
        b"note,key,payer,payee,amount,currency\n\xff,k1,alpine/ann,boreal/bob,1.00,EUR\n",
        "row 2, column note: this is not text in UTF-8",
    ),
    "UTF-16": ((HEADER + GOOD).encode("utf-16"), "row 1, column 1: this is not text in UTF-8"),
    "NUL": (f"{HEADER}{GOOD}k\0,", "row 3, column key: this is not text in UTF-8"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "row 1, column 1: this is not text in UTF-8"),
    "one long line of bytes": (bytes(200_000), "row 1: this is not text in UTF-8"),
    "open quote": (f'{HEADER}{GOOD}"k2,alpine/ann\n', "row 3: this is not CSV: unexpected end of data"),
    "text after a quote": (
        f'{HEADER}"k"1,alpine/ann,boreal/bob,1.00,EUR\n',
        "row 2: this is not CSV: ',' expected after '\"'",
    ),
    "wrong row after a blank line": (
        f"{HEADER}\n{GOOD}\r\n-\n",
        "row 5, column payer: the row has 1 cells, the header 5",
    ),
    "wrong row after a row of two lines": (
        f'{HEADER}"k\n1",alpine/ann,boreal/bob,1.00,EUR\nk2,alpine/ann,boreal/bob,x,EUR\n',
        "row 4, column amount: 'x' is not an amount such as 12.50",
    ),
}


@pytest.mark.parametrize(("content", "line"), BAD_PAYMENTS.values(), ids=BAD_PAYMENTS)
def test_wrong_payments_get_one_line(tmp_path: Path, content: str | bytes, line: str) -> None:
    """The line names file, row and, wherever there is one, column."""
    path = write(tmp_path, content)
    with pytest.raises(BadInput) as caught:
        read_payments(path)
    assert str(caught.value) == f"{path}, {line}"


BAD_ACCOUNTS = {
    "missing column": (
        "account,opening_balance,currency\na/b,1.00,EUR\n",
        "row 1, column status: the column is missing",
    ),
    "status": (
        f"{ACCOUNTS_HEADER}a/b,1.00,EUR,frozen\n",
        "row 2, column status: 'frozen' is neither open nor closed",
    ),
    "negative balance": (
        f"{ACCOUNTS_HEADER}a/b,-1.00,EUR,open\n",
        "row 2, column opening_balance: '-1.00' is not an amount such as 12.50",
    ),
    "decimals": (
        f"{ACCOUNTS_HEADER}a/b,1.5,JPY,open\n",
        "row 2, column opening_balance: '1.5' has more decimals than JPY has (0)",
    ),
    "currency": (
        f"{ACCOUNTS_HEADER}a/b,1.00,,open\n",
        "row 2, column currency: '' is not a currency that paylab knows",
    ),
    "account": (
        f"{ACCOUNTS_HEADER}ab,1.00,EUR,open\n",
        "row 2, column account: 'ab' is not an account such as alpine/alice",
    ),
    "listed twice": (
        f"{ACCOUNTS_HEADER}a/b,1.00,EUR,open\na/b,1.00,EUR,open\n",
        "row 3, column account: a/b is in row 2 already",
    ),
    "node as bank": (
        f"{ACCOUNTS_HEADER}bank-lb/b,1.00,EUR,open\n",
        "row 2, column account: a bank cannot be called bank-lb, as a node is",
    ),
    "owner": (
        f"{ACCOUNTS_HEADER[:-1]},owner\na/b,1.00,EUR,open,not one word\n",
        "row 2, column owner: 'not one word' is not a name such as alice",
    ),
    "header only": (ACCOUNTS_HEADER, "row 2, column account: there is a header and nothing else"),
    "empty": (
        "",
        "row 1, column account: the file is empty; it needs account,opening_balance,currency,status",
    ),
}


@pytest.mark.parametrize(("content", "line"), BAD_ACCOUNTS.values(), ids=BAD_ACCOUNTS)
def test_wrong_accounts_get_one_line(tmp_path: Path, content: str, line: str) -> None:
    """The accounts file is as strict as the payments file, and read before anything is sent."""
    payments, path = write(tmp_path, HEADER + GOOD), write(tmp_path, content, "accounts.csv")
    with pytest.raises(BadInput) as caught:
        read_job(payments, path)
    assert str(caught.value) == f"{path}, {line}"


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    """A missing file and a folder have no row."""
    with pytest.raises(BadInput, match=f"^{re.escape(str(tmp_path))}/no.csv: no such file or directory$"):
        read_payments(tmp_path / "no.csv")
    with pytest.raises(BadInput, match=f"^{re.escape(str(tmp_path))}: is a directory$"):
        read_payments(tmp_path)


def test_an_odd_file_name_stays_on_one_line(tmp_path: Path) -> None:
    """Line breaks in names of files and columns are escaped."""
    path = write(tmp_path, f'"a\nb",{HEADER}{GOOD}', "two\nlines.csv")
    with pytest.raises(BadInput) as caught:
        read_payments(path)
    assert "\n" not in str(caught.value)
    assert "two\\nlines.csv" in str(caught.value)


def test_wrong_input_is_an_error_of_the_lab() -> None:
    """It is definite: nothing was sent."""
    error = BadInput("payments.csv", "is odd", row=2, column="key")
    assert isinstance(error, LabError)
    assert error.definite
    assert str(error) == "payments.csv, row 2, column key: is odd"


def test_other_columns_order_quotes_mark_and_line_ends_do_not_matter(tmp_path: Path) -> None:
    """Columns are found by name; a byte order mark and CRLF come with many a spreadsheet."""
    text = '\ufeffnote,currency,amount,payee,payer,key\r\n"a, b",EUR,12.5,boreal/bob,alpine/ann,"k""1"\r\n'
    order = PaymentOrder(2, 'k"1', "alpine/ann", "boreal/bob", Money(1250, "EUR"))
    assert read_payments(write(tmp_path, text)) == [order]


def test_a_repeated_row_is_kept(tmp_path: Path) -> None:
    """A key repeated with the same payment, however it is written, is a duplicate request."""
    orders = read_payments(write(tmp_path, HEADER + GOOD + GOOD.replace("12.50", "12.5")))
    assert [(order.row, order.key) for order in orders] == [(2, "k1"), (3, "k1")]
    assert orders[0].money == orders[1].money


@pytest.mark.parametrize(
    "other",
    [
        "alpine/ann,boreal/bea,12.50,EUR",
        "alpine/abe,boreal/bob,12.50,EUR",
        "alpine/ann,boreal/bob,12.51,EUR",
        "alpine/ann,boreal/bob,12.50,USD",
    ],
)
def test_a_repeated_key_must_say_the_same(tmp_path: Path, other: str) -> None:
    """Payer, payee, amount and currency all count."""
    path = write(tmp_path, f"{HEADER}{GOOD}k1,{other}\n")
    with pytest.raises(BadInput, match=r"row 3, column key: 'k1' is the key of another payment, in row 2$"):
        read_payments(path)


def test_limits_are_inclusive(tmp_path: Path) -> None:
    """A key of 255 characters and names of 64 are fine."""
    long = f"{'b' * 64}/{'a' * 64}"
    (order,) = read_payments(write(tmp_path, f"{HEADER}{'ü' * 255},{long},c/d,0.01,EUR\n"))
    assert (len(order.key), order.payer, order.money) == (255, long, Money(1, "EUR"))


def test_accounts_are_read(tmp_path: Path) -> None:
    """Status and owner become fields; a balance of zero is fine here."""
    text = "account,opening_balance,currency,status,owner\na/b,0,JPY,open,\nA.b/c_d,2.5,EUR,closed,carol\n"
    assert read_accounts(write(tmp_path, text.replace("A.b", "ab"))) == [
        AccountRow("a/b", Money(0, "JPY")),
        AccountRow("ab/c_d", Money(250, "EUR"), closed=True, owner="carol"),
    ]


def test_a_job_has_the_banks_of_its_accounts(tmp_path: Path) -> None:
    """An account that its bank does not know is the bank's to decline; banks come sorted."""
    payments = write(tmp_path, HEADER + GOOD)
    accounts = write(
        tmp_path, f"{ACCOUNTS_HEADER}coral/c,0,EUR,open\nboreal/x,0,EUR,open\nalpine/y,1,EUR,open\n", "a.csv"
    )
    job = read_job(payments, accounts)
    assert job.banks == ("alpine", "boreal", "coral")
    assert list(job.payments) == read_payments(payments)
    assert list(job.accounts) == read_accounts(accounts)


@pytest.mark.parametrize(
    ("known", "column", "bank"), [("alpine", "payee", "boreal"), ("boreal", "payer", "alpine")]
)
def test_a_bank_that_the_accounts_do_not_know(tmp_path: Path, known: str, column: str, bank: str) -> None:
    """No bank could decline that, so it is wrong input."""
    payments = write(tmp_path, HEADER + GOOD)
    accounts = write(tmp_path, f"{ACCOUNTS_HEADER}{known}/x,1.00,EUR,open\n", "accounts.csv")
    with pytest.raises(BadInput) as caught:
        read_job(payments, accounts)
    assert str(caught.value) == f"{payments}, row 2, column {column}: {accounts} has no bank {bank}"


def test_without_accounts_the_payments_name_them(tmp_path: Path) -> None:
    """Who ever pays gets the opening balance, once; who only receives starts from nothing."""
    more = "k2,boreal/bob,coral/cy,1.00,EUR\nk3,alpine/ann,delta/dee,100,JPY\n"
    job = read_job(write(tmp_path, HEADER + GOOD + more), opening_balance="50.00 EUR")
    assert job.accounts == (
        AccountRow("alpine/ann", Money(5000, "EUR")),
        AccountRow("boreal/bob", Money(5000, "EUR")),
        AccountRow("coral/cy", Money(0, "EUR")),
        AccountRow("delta/dee", Money(0, "JPY")),
    )
    assert job.banks == ("alpine", "boreal", "coral", "delta")
    assert job == read_job(tmp_path / "payments.csv", opening_balance=Money(5000, "EUR"))


BAD_OPENINGS = [
    (None, 'say what payers begin with, such as "100.00 EUR", or name an --accounts file'),
    ("100.00", "'' is not a currency that paylab knows"),
    ("1.005 EUR", "'1.005' has more decimals than EUR has (2)"),
    ("-1.00 EUR", "'-1.00' is not an amount such as 12.50"),
    (Money(-100, "EUR"), "-1.00 EUR is below zero"),
]


@pytest.mark.parametrize(("opening", "problem"), BAD_OPENINGS)
def test_a_wrong_opening_balance_names_the_option(
    tmp_path: Path, opening: str | Money | None, problem: str
) -> None:
    """Without accounts it is needed, and it is read as strictly as a file."""
    with pytest.raises(BadInput) as caught:
        read_job(write(tmp_path, HEADER + GOOD), opening_balance=opening)
    assert str(caught.value) == f"--opening-balance: {problem}"


def test_an_opening_balance_is_not_mixed_with_accounts(tmp_path: Path) -> None:
    """Two sources for a balance are one too many."""
    accounts = write(tmp_path, f"{ACCOUNTS_HEADER}a/b,1.00,EUR,open\n", "accounts.csv")
    with pytest.raises(BadInput, match=r"^--opening-balance: not together with --accounts"):
        read_job(write(tmp_path, HEADER + GOOD), accounts, "1.00 EUR")


def test_an_opening_balance_must_fit_what_payers_pay(tmp_path: Path) -> None:
    """A payer whose first use is in another currency cannot open with it."""
    path = write(tmp_path, HEADER + GOOD)
    with pytest.raises(BadInput) as caught:
        read_job(path, opening_balance="50.00 CZK")
    problem = "alpine/ann pays from EUR, but --opening-balance is 50.00 CZK"
    assert str(caught.value) == f"{path}, row 2, column currency: {problem}"


# No node is called like this, and no two banks differ only in case.
names = st.text("abc09_.", max_size=9).map("n{}".format)
accounts_of = st.builds("{}/{}".format, names, names)
text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
orders_of = st.lists(
    st.tuples(
        text.filter(str.strip),
        st.lists(accounts_of, min_size=2, max_size=2, unique=True),
        st.builds(Money, st.integers(1, 10**12), st.sampled_from(sorted(MINOR_DIGITS))),
        text,
    ),
    min_size=1,
    unique_by=lambda drawn: drawn[0],
)


@settings(deadline=None)  # a busy machine is no failure
@given(orders_of, st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[tuple[str, list[str], Money, str]],
    mark: bool,  # noqa: FBT001 - hypothesis draws it
    line_end: str,
) -> None:
    """Any orders, keys and other columns that csv writes come back, with the rows that an editor shows."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator=line_end)
    writer.writerow(["amount", "currency", "key", "note", "payer", "payee"])
    expected = []
    for key, (payer, payee), money, note in drawn:
        first_row = len(re.findall("\r\n|\r|\n", file.getvalue())) + 1
        writer.writerow([*str(money).split(), key, note, payer, payee])
        expected.append(PaymentOrder(first_row, key, payer, payee, money))
    path = tmp_path_factory.getbasetemp() / "round-trip.csv"
    path.write_bytes(file.getvalue().encode("utf-8-sig" if mark else "utf-8"))
    assert read_payments(path) == expected


fragments = st.sampled_from(
    ["k1", ",", "\n", "\r", '"', "a/b", "c/d", "1.00", "EUR", "\0", "\u2028", "é", "-"]
)


@settings(deadline=None)  # the same
@given(st.one_of(st.binary(), st.lists(fragments).map(lambda parts: (HEADER + "".join(parts)).encode())))
def test_any_bytes_are_payments_or_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Whatever the bytes, nothing but BadInput is raised, and it is one line of bearable length."""
    path = tmp_path_factory.getbasetemp() / "anything.csv"
    path.write_bytes(data)
    try:
        read_payments(path)
    except BadInput as error:
        line = str(error)
        assert line.startswith(f"{path}, row ")
        assert line.isprintable()
        assert len(line) < len(str(path)) + 600
