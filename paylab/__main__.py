"""`python -m paylab`: what a notebook does, without a notebook.

Exit status: 0 when every invariant holds, 1 when one is broken, 2 for bad input.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence

from paylab.core.balancing import POLICIES
from paylab.errors import LabError, PaylabError

CONCURRENCY_DEFAULT = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except PaylabError as error:
        print(f"paylab: {error}", file=sys.stderr)
        return 1 if isinstance(error, LabError) and error.reason == "BROKEN" else 2
    except KeyboardInterrupt:
        print("paylab: interrupted; what was sent is settled or will be asked again", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="paylab", description="A payment network to run, break and repair.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="boot a network and send a file of payments through it")
    run.add_argument("file", metavar="FILE", help="CSV with the columns key,payer,payee,amount,currency")
    run.add_argument("--accounts", metavar="FILE", help="CSV with account,opening_balance,currency,status")
    run.add_argument("--opening-balance", metavar='"50000.00 CZK"', help="what every payer starts with")
    run.add_argument("--concurrency", type=_positive, default=CONCURRENCY_DEFAULT, metavar="N")
    run.add_argument("--data-dir", metavar="DIR", help="keep the books here, and continue from them")
    run.add_argument("--bank-servers", type=_positive, default=2, metavar="N", help="servers for each bank")
    run.add_argument("--policy", choices=sorted(POLICIES), default="round_robin", help="how balancers pick")
    run.add_argument("--json", action="store_true", help="print one JSON object")
    run.set_defaults(command=_run)
    generate = commands.add_parser("generate", help="write a day of payments as data/ has it")
    generate.add_argument("--seed", type=int, default=7)
    generate.add_argument("--payments", type=_positive, default=2000, metavar="N")
    generate.add_argument("--banks", type=_positive, default=4, metavar="N")
    generate.add_argument(
        "--out", default="data", metavar="DIR", help="where accounts.csv and payments.csv go"
    )
    generate.add_argument("--json", action="store_true", help="print one JSON object")
    generate.set_defaults(command=_generate)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _run(options: argparse.Namespace) -> int:
    from paylab.lab.lab import Lab  # noqa: PLC0415 - a bad file is refused before the network is imported
    from paylab.lab.payment_files import read_job  # noqa: PLC0415
    from paylab.lab.workload import run_job  # noqa: PLC0415

    job = read_job(options.file, options.accounts, options.opening_balance)
    say = _quiet if options.json else _say
    say(f"{len(job.payments):,} payments between {len(job.banks)} banks; booting the network ...")
    with Lab(
        banks=job.banks,
        bank_servers=options.bank_servers,
        policy=options.policy,
        data_dir=options.data_dir,
        name="run",
    ) as lab:
        result = run_job(lab, job, concurrency=options.concurrency, progress=sys.stderr.isatty())
    print(json.dumps(result.to_json(), indent=2) if options.json else result)
    return 0 if result.ok else 1


def _generate(options: argparse.Namespace) -> int:
    from paylab.lab.generate import write_day  # noqa: PLC0415 - only this command needs it

    accounts, payments = write_day(
        options.out, seed=options.seed, payments=options.payments, banks=options.banks
    )
    written = {"accounts": str(accounts), "payments": str(payments)}
    print(json.dumps(written) if options.json else f"wrote {accounts} and {payments}")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _quiet(_text: str) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
