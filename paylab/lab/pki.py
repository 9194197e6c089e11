"""A lab's own certificate authority. A certificate names its holder twice: as a host and as an identity."""

from datetime import datetime

import trustme

from paylab.core.authorization import Identity
from paylab.nodes.host import Credentials


class Authority:
    """Issues the certificates of one lab; another lab's are worth nothing here."""

    def __init__(self) -> None:
        """Make a fresh authority."""
        self._ca = trustme.CA(organization_name="paylab")
        self.ca_pem: bytes = self._ca.cert_pem.bytes()

    def issue(self, identity: Identity, *, expired_at: datetime | None = None) -> Credentials:
        """A certificate for `<node>` and `<node>.<role>.paylab`, and its key; an expired one on request."""
        leaf = self._ca.issue_cert(
            identity.node, str(identity), common_name=identity.node, not_after=expired_at
        )
        chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        return Credentials(self.ca_pem, chain, leaf.private_key_pem.bytes())
