"""A long queue: killed, it serves again as soon as an empty one, it settles everything, it stays small."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from paylab import Lab
from paylab.core.money import Money
from paylab.lab.processes.node_process import NodeProcess
from paylab.nodes.passwords import PasswordCost

Eventually = Callable[..., None]
# Ten times as many as a restart must bear, since memory must bear these.
VERY_MANY = 100_000
# 10,000 take the better part of a minute, and show the same.
SETTLED = 600
# To start a process and import everything takes 1.3 s, on a busy machine 2: as a ratio that does not matter.
LONGER_MAX, MEMORY_MAX_MB = 1.5, 300
PAYERS = 50
FAR_S = 1_000_000


def fill(lab: Lab, count: int) -> None:
    """Let so many payments wait at gateway and queue, due some day: copies of one that does."""
    bob = lab.client("bob", bank="boreal")
    accounts = [(f"payer-{n}", Money(count, "EUR"), "payer") for n in range(PAYERS)]
    lab.world.call(lab.network.open_accounts("alpine", accounts))
    lab.crash("boreal-1")
    model = lab.client("model", bank="alpine", balance="1.00 EUR").pay(bob, "0.01 EUR")
    assert model.state == "QUEUED"
    while lab.world.rows("gateway", "SELECT count(*) FROM outbox") != [(0,)]:
        lab.advance(0.01)
    new = {"payment": "'w-' || n", "key": "'w-' || n", "payer": f"'alpine/payer-' || (n % {PAYERS})"}
    copy(lab, "gateway", "payments", count, new)
    place = f"CASE WHEN n < {PAYERS} THEN 'FRONT' ELSE 'BEHIND' END"
    waiting = {"seq": "NULL", "place": place, "due_at_s": f"due_at_s + {FAR_S}", "worker": "''"}
    copy(lab, "queue", "entries", count, new | waiting)
    lab.restart("boreal-1")  # now, that the queue does not settle the model before it is copied


def copy(lab: Lab, store: str, table: str, count: int, new: dict[str, str]) -> None:
    """Write rows past the nodes, like the only one there but for some columns; n counts from 0."""
    columns = [name for (name,) in lab.world.rows(store, f"SELECT name FROM pragma_table_info('{table}')")]  # noqa: S608 - names of ours
    numbers = f"WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers LIMIT {count})"  # noqa: S608 - a number of ours
    values = ", ".join(new.get(name, f'"{name}"') for name in columns)
    names = ", ".join(f'"{name}"' for name in columns)
    found = f"SELECT {values} FROM {table}, numbers"  # noqa: S608 - the same
    lab.world.write(store, f"{numbers} INSERT INTO {table} ({names}) {found}")


def left(lab: Lab) -> int:
    return int(lab.world.rows("queue", "SELECT count(*) FROM entries")[0][0])


def process(lab: Lab) -> Path:
    """What Linux tells of the queue's process."""
    host = lab.network.nodes["queue"].host
    assert isinstance(host, NodeProcess)
    return Path(f"/proc/{host.pid}")


def work_s(lab: Lab) -> float:
    """What it has spent on a processor: fields 14 and 15 of its `stat`, counted on after the name."""
    fields = (process(lab) / "stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(lab: Lab) -> float:
    """How much of it is in memory."""
    lines = (process(lab) / "status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1_000


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads what Linux tells of a process")
def test_a_killed_queue_of_a_hundred_thousand_serves_soon_and_stays_small(
    cheap: PasswordCost, eventually: Eventually
) -> None:
    """SIGKILL; until it serves again it works at most half as long again as an empty one."""
    with Lab(name="long", bank_servers=1, auth_servers=1, processes=["queue"], password_cost=cheap) as lab:
        empty_s = work_s(lab)
        fill(lab, VERY_MANY)
        lab.crash("queue")
        lab.restart("queue")
        assert work_s(lab) < LONGER_MAX * empty_s
        assert left(lab) >= VERY_MANY
        assert len(lab.operator.queued(limit=10_000)) == 10_000
        assert lab.operator.retry_now().queued >= VERY_MANY
        eventually(lambda: left(lab) <= VERY_MANY - 20)
        assert memory_mb(lab) < MEMORY_MAX_MB


def test_a_queue_that_was_killed_settles_everything() -> None:
    """Killed once more in the middle, in simulation: each payment is paid once, of each payer in order."""
    with Lab(name="all", bank_servers=1, auth_servers=1, world="simulated", lease_s=60.0) as lab:
        fill(lab, SETTLED)
        lab.crash("queue")
        lab.restart("queue")
        lab.operator.retry_now()
        while left(lab) > SETTLED // 2:
            lab.advance(0.1)
        lab.crash("queue")
        lab.restart("queue")
        while left(lab):
            lab.advance(0.5)
        assert lab.settle()
        assert lab.client("bob").balance() == Money(SETTLED + 1, "EUR")
        assert lab.log.verify().ok
        assert lab.log.reconcile().ok
        paid = lab.world.rows(
            "bank-alpine", "SELECT account, txn FROM postings WHERE account LIKE 'payer-%' ORDER BY posting"
        )
        order: dict[str, list[int]] = {}
        for account, txn in paid:
            if txn.startswith("w-"):
                order.setdefault(account, []).append(int(txn.partition("/")[0].removeprefix("w-")))
        assert sum(map(len, order.values())) == SETTLED
        assert all(numbers == sorted(numbers) for numbers in order.values())
