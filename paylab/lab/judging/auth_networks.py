"""Small networks in which the exercises on authentication are tried, and who is let in there."""

from collections.abc import Mapping
from typing import Any

import grpc

from paylab.errors import PaylabError
from paylab.lab.clients import LabClient
from paylab.lab.lab import Lab
from paylab.pb import payment_gateway_pb2, payment_gateway_pb2_grpc


def small_lab(seed: int, slots: Mapping[str, Any]) -> Lab:
    """One bank, one authentication server, and slots that are filled."""
    return Lab(
        banks=["alpine"],
        bank_servers=1,
        auth_servers=1,
        lease_s=600.0,
        world="simulated",
        seed=seed,
        replace=slots,
        name=f"exercise 02 {seed}",
    )


def turned_away(client: LabClient) -> str:
    """Why a user cannot see his payments; empty if he can."""
    try:
        client.payments(limit=1)
    except PaylabError as error:
        return str(error)
    return ""


def accepts(lab: Lab, token: str) -> bool:
    """Whether the gateway answers whoever holds this token."""

    async def ask() -> bool:
        channel = lab.network.client_host("mallory").channel("gateway")
        stub = payment_gateway_pb2_grpc.PaymentGatewayStub(channel)
        metadata = (("authorization", f"Bearer {token}"),)
        try:
            await stub.ListPayments(payment_gateway_pb2.ListPaymentsRequest(limit=1), metadata=metadata)
        except grpc.aio.AioRpcError:
            return False
        return True

    return lab.world.call(ask())
