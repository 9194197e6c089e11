"""`python -m paylab`: what a notebook does, without a notebook.

Exit status: 0 when every invariant holds, 1 when one is broken, 2 for bad input.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence

from paylab.core.balancing import POLICIES
from paylab.errors import LabError, PaylabError
from paylab.lab.attacks import attack_command
from paylab.lab.campaigns import campaign_command
from paylab.lab.exploring import explore_command
from paylab.lab.processes import node_command

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
    check = commands.add_parser(
        "check", help="judge a saved history: every invariant, and the line that breaks it"
    )
    check.add_argument("file", metavar="HISTORY", help="what lab.history.stream_to() wrote")
    check.add_argument("--json", action="store_true", help="print one JSON object")
    check.set_defaults(command=_check)
    experiment = commands.add_parser("experiment", help="measure something and compare it with theory")
    experiment.add_argument("name", metavar="NAME", nargs="?", help="which one; --list names them")
    experiment.add_argument("--list", action="store_true", help="say what there is")
    experiment.add_argument("--seed", type=int, default=0)
    experiment.add_argument(
        "--workers", type=_positive, metavar="N", help="processes; all cores unless given"
    )
    experiment.add_argument("--out", metavar="DIR", help="write table, figure and manifest into this folder")
    experiment.add_argument("--quick", action="store_true", help="measure less, ask for less precision")
    experiment.add_argument("--json", action="store_true", help="print one JSON object")
    experiment.set_defaults(command=_experiment)
    judge = commands.add_parser(
        "judge", help="mark notebooks that came back (no sandbox: it runs their code)"
    )
    judge.add_argument("files", nargs="+", metavar="FILE", help="notebooks; only cells tagged exercise count")
    judge.add_argument("--seeds", metavar="5000:5100", help="other seeds than the chapter's")
    judge.add_argument("--csv", metavar="FILE", help="write a row for each notebook and exercise")
    judge.add_argument("--chapters", metavar="DIR", help="where the chapters are as they were handed out")
    judge.add_argument("--time-limit", type=_positive, default=300, metavar="S", help="for each notebook")
    judge.add_argument("--json", action="store_true", help="print one JSON list")
    judge.set_defaults(command=_judge)
    campaign_command.add_to(commands, _simulate)
    explore_command.add_to(commands)
    attack_command.add_to(commands)
    node_command.add_to(commands)
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


def _simulate(options: argparse.Namespace) -> int:
    return campaign_command.simulate(options, print)


def _judge(options: argparse.Namespace) -> int:
    from paylab.lab.judging.marking import mark_command  # noqa: PLC0415 - only this command needs it

    return mark_command(options, print)


def _experiment(options: argparse.Namespace) -> int:
    from paylab.lab.experiments import experiment_results, experiments  # noqa: PLC0415 - only this command needs them

    if options.list:
        known = experiments.catalogue()
        if options.json:
            print(json.dumps([{"name": e.name, "question": e.question} for e in known.values()], indent=2))
        else:
            print("\n".join(f"{e.name:<16}{e.question}\n{'':<16}{e.expectation}" for e in known.values()))
        return 0
    if options.name is None:
        raise LabError("BAD_ARGUMENT", "which experiment? `experiment --list` names them")
    if options.out:
        experiment_results.writable(options.out)  # rather now than after all the work
    result = experiments.experiment(
        options.name,
        seed=options.seed,
        quick=options.quick,
        workers=options.workers,
        progress=sys.stderr.isatty(),
    )
    print(json.dumps(result.to_json(), indent=2) if options.json else result)
    for path in result.save(options.out) if options.out else ():
        _say(f"wrote {path}")
    return 0 if result.met else 1


def _check(options: argparse.Namespace) -> int:
    from paylab.lab.checking.check_command import judge_file  # noqa: PLC0415 - only this command needs it

    report = judge_file(options.file)
    print(json.dumps(report.to_json(), indent=2) if options.json else report)
    return 0 if report.ok else 1


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _quiet(_text: str) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
